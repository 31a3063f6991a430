"""Soft edges by TEED, a network of 58,000 parameters, alone and joined with line art (Anyline).

Source: X. Soria and others, Tiny and Efficient Model for the Edge Detection Generalization, 2023. Anyline, of
TheMistoAI, takes a TEED of its own training; the way it is joined with line art is the incumbent's.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, filled, pixels
from controlstack.packages import controlnet_aux
from controlstack.preprocess import RESOLUTION, Ask, Preprocessor, Slider, at_resolution, register
from controlstack.strokes import levels, mean_of_scales, safe_steps

TEED = File(
    repository="bdsqlsz/qinglong_controlnet-lllite",
    path="Annotators/7_model.pth",
    folder="TEED",
    licence="MIT",
    sha256="b9037964149c55156c6adbffdfbd7e8ca7d2ef2a4d90573520efa7f3a1aacf06",
    size=247_232,
)
MTEED = File(
    repository="TheMistoAI/MistoLine",
    path="Anyline/MTEED.pth",
    folder="TEED",
    licence="the repository's",
    sha256="a3c2d8a8ce9422555c787160bd46362d761325a565333c0e3f6a53e0bae2abdb",
    size=248_298,
)
SMALLEST_LINE = 12
"""px; the incumbent's 36 count every pixel once for each of three channels"""


def _edges(picture: Array, ask: Ask, weights: File) -> Array:
    height, width = picture.shape[:2]
    network = ask.networks.get(weights, _network)
    scales = [scale[0, 0].float().cpu().numpy() for scale in network(pixels(picture, network))]
    return levels(safe_steps(mean_of_scales(scales, width, height), int(ask.a)))


def _network(state: State) -> nn.Module:
    return filled(controlnet_aux("teed.ted").TED(), state)


@at_resolution
def teed(picture: Array, ask: Ask) -> Array:
    """Grey edges on black, in `ask.a` + 2 levels, or all levels for 0."""
    return hwc3(_edges(picture, ask, TEED))


@at_resolution
def anyline(picture: Array, ask: Ask) -> Array:
    """Edges in levels as TEED's; where line art has its faintest level, 1, the edge gets that level too."""
    edges = _edges(picture, ask, MTEED)
    faint = _without_specks(_line_art(picture) == 1)
    # 1 - (1 - line)(1 - edge), which is 1 for a line of level 1
    return hwc3(np.where(faint, np.uint8(1), edges))


def _line_art(picture: Array) -> Array:
    """How much darker than its surroundings each pixel is, the typical line at 127: see lineart_standard."""
    colours = picture.astype(np.float32)
    darkness = (cv2.GaussianBlur(colours, (0, 0), 6.0) - colours).min(axis=2).clip(0, 255)
    lines = darkness[darkness > 8]
    typical = max(16.0, float(np.median(lines))) if lines.size else 16.0
    return np.asarray((darkness / typical * 127).clip(0, 255).astype(np.uint8))


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its pieces, joined at sides, of less than `SMALLEST_LINE` px."""
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return np.asarray(mask & (stats[:, cv2.CC_STAT_AREA] >= SMALLEST_LINE)[pieces])


register(
    Preprocessor(
        name="softedge_teed",
        run=teed,
        label="softedge_teed",
        control_types=("SoftEdge",),
        a=Slider("Safe Steps", 0, 10, 1, 2),
        network="TEED",
        files=(TEED,),
        packages=("controlnet_aux",),
    )
)
register(
    Preprocessor(
        name="softedge_anyline",
        run=anyline,
        label="softedge_anyline",
        control_types=("SoftEdge",),
        resolution=replace(RESOLUTION, value=1280),
        a=Slider("Safe Steps", 0, 10, 1, 2),
        network="TEED, trained for Anyline",
        files=(MTEED,),
        packages=("controlnet_aux",),
    )
)
