"""A small base, a folder of fifty captioned shapes, and short trainings, for the tests of the trainer."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import nets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from controlstack.hosts.embedded import random_nets
from controlstack.hosts.embedded.checkpoint import TRAINED, Checkpoint
from controlstack.train.config import Config

TINY: nets.Config = nets.SD1 | dict(
    block_out_channels=(16, 32, 32, 32), cross_attention_dim=64, attention_head_dim=2, norm_num_groups=8
)
"""Neither heads nor groups of it can be read from shapes."""
QUICK = Config(
    steps=4,
    batch=2,
    learning_rate=1e-3,
    hint_channels=(4, 8, 8, 16),
    save_every=2,
    validate_every=4,
    validation_steps=1,
    save_precision="fp32",
)
SIDE = 64
COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 210)}


def base(kind: str = "tiny", **schedule: Any) -> Checkpoint:
    """A random base in memory: "sd1", "sd2", "sdxl", or "tiny", which has SD1's text encoder."""
    return Checkpoint(kind, _parts(kind), {**TRAINED, **schedule})


@cache
def _parts(kind: str) -> dict[str, Any]:
    if kind == "tiny":
        return {**_parts("sd1"), "unet": nets.unet(TINY)}
    return getattr(random_nets, kind)()


def state(*models: torch.nn.Module) -> list[Tensor]:
    """A copy of all their numbers."""
    return [tensor.detach().clone() for model in models for tensor in model.state_dict().values()]


class Latents:
    """Examples without a picture: latents drawn at random, hints and captions of shapes."""

    def __init__(self, count: int = 8) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        _, hint, caption = shape(index)
        latent = torch.randn(4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(index))
        return {"latent": latent, "hint": torch.from_numpy(hint).permute(2, 0, 1) / 255, "caption": caption}


class Shapes:
    """Examples in memory, as `folder` would read them."""

    def __init__(self, count: int = 8) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture, hint, caption = shape(index)
        tensors = (torch.from_numpy(array).permute(2, 0, 1).contiguous() for array in (picture, hint))
        return {**dict(zip(("picture", "hint"), tensors, strict=True)), "caption": caption}


def shape(index: int) -> tuple[Any, Any, str]:
    """A picture "64 64 3" of a coloured disc or square, its edges, and its caption."""
    draw = np.random.default_rng(index)
    name, round_ = list(COLOURS)[index % 3], index % 2 == 0
    picture = np.full((SIDE, SIDE, 3), 60, np.uint8)
    x, y, r = (int(draw.integers(*span)) for span in ((20, 44), (20, 44), (8, 18)))
    if round_:
        cv2.circle(picture, (x, y), r, COLOURS[name], -1)
    else:
        cv2.rectangle(picture, (x - r, y - r), (x + r, y + r), COLOURS[name], -1)
    edges = np.repeat(cv2.Canny(picture, 100, 200)[:, :, None], 3, axis=2)
    return picture, edges, f"a {name} {'disc' if round_ else 'square'}"


def write_folder(root: Path, count: int = 50) -> Path:
    """The same on disk: pictures, hints and captions."""
    for name in ("pictures", "hints", "captions"):
        (root / name).mkdir(parents=True)
    for index in range(count):
        picture, hint, caption = shape(index)
        Image.fromarray(picture).save(root / "pictures" / f"{index:02}.png")
        Image.fromarray(hint).save(root / "hints" / f"{index:02}.png")
        (root / "captions" / f"{index:02}.txt").write_text(caption + "\n", encoding="utf-8")
    return root


def quick(**changed: Any) -> Config:
    """`QUICK` with other settings."""
    return replace(QUICK, **changed)
