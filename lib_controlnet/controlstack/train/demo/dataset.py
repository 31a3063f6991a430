"""Scenes for training, rendered and encoded once, in files of 500."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controlstack.image import Array
from controlstack.train.demo import vae
from controlstack.train.demo.scenes import Scene, scene

BLOCK = 500
HELD_OUT = 1_000_000
"""Scenes from this number on are never trained on."""
_PEOPLE = 3
"""At most so many figures are in a scene."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Latents "n 4 16 16" of deviation 1, captions, and what hints are made of.

    edges: "n 128 128", 0 or 255 · depth: "n 128 128", 0..255 · classes: "n 128 128"
    people: "n 3 18 3", rows of zeros for figures that are not there
    """

    latents: NDArray[np.float16]
    captions: NDArray[np.str_]
    edges: NDArray[np.uint8]
    depth: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    people: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.latents)


def edges(picture: Array) -> NDArray[np.uint8]:
    """White edges, "h w": what the preprocessor canny finds with its default thresholds."""
    found: NDArray[np.uint8] = np.asarray(cv2.Canny(np.ascontiguousarray(picture), 100, 200), np.uint8)
    return found


def tensor(pictures: Iterable[Array]) -> Tensor:
    """Pictures as the VAE reads them: "B 3 h w" from -1 to 1."""
    return torch.from_numpy(np.stack(list(pictures)).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


def make(folder: Path, autoencoder: Any, scenes: int) -> None:
    """Write the blocks that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for block in range(scenes // BLOCK):
        file = folder / f"{block:04}.npz"
        if not file.exists():
            made = [scene(seed) for seed in range(block * BLOCK, (block + 1) * BLOCK)]
            unfinished = file.with_suffix(".part.npz")
            np.savez(unfinished, **_block(made, autoencoder))
            unfinished.replace(file)


def load(folder: Path) -> Encoded:
    """All blocks that are there."""
    blocks = [dict(np.load(file)) for file in sorted(folder.glob("[0-9]*[0-9].npz"))]
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    joined["edges"] = np.unpackbits(joined["edges"], axis=-1) * np.uint8(255)
    return Encoded(**joined)


@torch.no_grad()
def latents(autoencoder: Any, pictures: Iterable[Array]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return vae.encode(autoencoder, tensor(pictures)).float() * vae.SCALE


def described(made: Sequence[Scene]) -> Encoded:
    """Scenes with all that hints are made of, but with latents of zeros."""
    people = np.zeros((len(made), _PEOPLE, 18, 3), np.float32)
    for place, one in enumerate(made):
        for index, body in enumerate(one.people):
            people[place, index] = body
    return Encoded(
        latents=np.zeros((len(made), 4, 16, 16), np.float16),
        captions=np.array([one.caption for one in made]),
        edges=np.stack([edges(one.picture) for one in made]),
        depth=np.stack([np.rint(one.depth * 255).astype(np.uint8) for one in made]),
        classes=np.stack([one.classes for one in made]),
        people=people,
    )


def _block(made: list[Scene], autoencoder: Any) -> dict[str, Any]:
    batches = [made[at : at + 20] for at in range(0, len(made), 20)]
    found = [latents(autoencoder, [one.picture for one in batch]) for batch in batches]
    known = described(made)
    packed = np.packbits(known.edges > 0, axis=-1)
    return {**vars(known), "latents": torch.cat(found).numpy().astype(np.float16), "edges": packed}
