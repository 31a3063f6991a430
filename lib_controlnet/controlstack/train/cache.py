"""Latents, hints and prompts computed once and kept in files: the VAE and the text encoders rest then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from controlstack.train.files import whole
from controlstack.train.objective import Objective
from controlstack.train.samples import Examples, collate


class Cached:
    """The examples of a data set, each in a file of its own in `folder`."""

    def __init__(self, folder: Path, count: int, fingerprint: str) -> None:
        self._folder, self._count, self.fingerprint = folder, count, fingerprint

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return load_file(self.file(index))

    def file(self, index: int) -> Path:
        return self._folder / f"{index:07}.safetensors"


def fill(cached: Cached, data: Examples, objective: Objective, bar: Any) -> None:
    """Compute what is not there yet."""
    for index in bar(range(len(cached)), desc="caching latents"):
        if not cached.file(index).exists():
            with whole(cached.file(index)) as part:
                save_file(_computed(data[index], objective), part)


@torch.no_grad()
def _computed(example: Any, objective: Objective) -> dict[str, Tensor]:
    batch = collate([{**example, "kept": torch.tensor(True)}])
    found = {"hint": example["hint"].contiguous()}
    if "size" in example:
        found["size"] = example["size"]
    mean, spread = objective.encode(batch["picture"])
    prompt = objective.prompt(batch)
    computed = {"latent": mean, "spread": spread, "context": prompt.context, "pooled": prompt.pooled}
    return found | {
        name: tensor[0].cpu().contiguous() for name, tensor in computed.items() if tensor is not None
    }
