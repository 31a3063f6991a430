"""Instruments that read a picture: its edges by Canny, depth and classes by a small net, its colours.

They are fixed and know nothing of hints. What they score on true pictures and on what the VAE leaves of
those is the most that a generated picture can reach.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from controlstack.image import Array
from controlstack.train.demo.scenes import CLASSES, COLOURS

REACH = 2.0
"""px; how far an edge may lie from its place."""
_STRONG = 0.55
"""Saturation between that of all grounds, at most 0.42, and that of all colours, at least 0.7."""
CELLS = 32
"""Cells of a side in which depth and classes are read."""

HUES = tuple(name for name in COLOURS if name != "white")
"""The colours that a hue tells apart."""
Mask = NDArray[np.bool_]


def edge_f1(found: Mask, wanted: Mask, reach: float = REACH) -> float:
    """The harmonic mean of the share of found edges near a wanted one and of wanted ones near a found one."""
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    precise, complete = (_near(wanted)[found] <= reach).mean(), (_near(found)[wanted] <= reach).mean()
    return float(2 * precise * complete / (precise + complete)) if precise + complete else 0.0


def rank_correlation(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Spearman's: Pearson's of the ranks, ties sharing their mean rank."""
    first, second = (_ranks(np.ravel(values)) for values in (found, wanted))
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def mean_iou(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The mean over the wanted classes of intersection over union, each counted over all that is given.

    Given all pictures of a test at once, this is the measure of PASCAL VOC and of those that followed it
    ("mean IU" of Long et al., arXiv 1411.4038, section 5): few pictures weigh what is rare by chance.
    """
    shares = []
    for kind in np.unique(wanted):
        ours, theirs = found == kind, wanted == kind
        shares.append((ours & theirs).sum() / (ours | theirs).sum())
    return float(np.mean(shares))


def colour_share(picture: Array, name: str) -> float:
    """The share of pixels whose colour, apart from how bright it is, is this one of `COLOURS` and strong."""
    hue, strength = _chroma(picture)
    wheel = np.array([_chroma(np.array(COLOURS[other], np.uint8)[None, None])[0][0, 0] for other in HUES])
    off = np.abs((hue[..., None] - wheel + np.pi) % (2 * np.pi) - np.pi)
    return float(((off.argmin(-1) == HUES.index(name)) & (strength > _STRONG)).mean())


def strongest_colour(picture: Array) -> str:
    """Which of `HUES` has most pixels."""
    return max(HUES, key=lambda name: colour_share(picture, name))


class Reader(nn.Module):
    """Pictures "B 3 h w" from -1 to 1 to depth "B h/4 w/4" and class scores "B 7 h/4 w/4"."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.near = nn.Sequential(_down(3, 24), _down(24, width))
        self.far = nn.Sequential(_down(width, width), _down(width, 2 * width))
        self.whole = nn.Linear(2 * width, width)
        self.joined = nn.Sequential(
            nn.Conv2d(4 * width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
        )
        self.out = nn.Conv2d(width, 1 + len(CLASSES), 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        near = self.near(pictures)
        far = self.far(near)
        size = near.shape[-2:]
        whole = self.whole(far.mean((2, 3)))[..., None, None].expand(-1, -1, *size)
        wide = F.interpolate(far, size=size, mode="bilinear", align_corners=False)
        found = self.out(self.joined(torch.cat([near, wide, whole], 1)))
        return found[:, 0], found[:, 1:]

    @torch.no_grad()
    def read(self, pictures: Array) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Depth and classes, "n 32 32", of pictures "n 128 128 3"."""
        found, scores = self(torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1))
        return found.numpy(), scores.argmax(1).numpy()


def load(file: Path) -> Reader:
    from safetensors.torch import load_file

    reader = Reader()
    reader.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
    return reader.eval().requires_grad_(False)


def cells(planes: NDArray[Any]) -> NDArray[Any]:
    """The values at the middle of each cell, "n 32 32", of planes "n 128 128"."""
    step = planes.shape[-1] // CELLS
    return planes[..., step // 2 :: step, step // 2 :: step]


def _down(channels: int, to: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, to, 4, stride=2, padding=1), nn.SiLU(), nn.Conv2d(to, to, 3, padding=1), nn.SiLU()
    )


def _near(edges: Mask) -> NDArray[np.float32]:
    """The distance of each pixel to the next edge, px."""
    found: NDArray[np.float32] = np.asarray(
        cv2.distanceTransform((~edges).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32
    )
    return found


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = count.cumsum()
    ranks: NDArray[np.float64] = (last - (count - 1) / 2)[place.ravel()]
    return ranks


def _chroma(picture: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hue in radians, and saturation."""
    red, green, blue = np.moveaxis(picture.astype(np.float64), -1, 0)
    hue = np.arctan2(3**0.5 * (green - blue), 2 * red - green - blue)
    strongest = picture.max(-1).astype(np.float64)
    return hue, (strongest - picture.min(-1)) / np.maximum(strongest, 1)
