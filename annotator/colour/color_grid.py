"""A mosaic of the picture's colours in cells of 64 px, for the T2I-Adapter of colours.

Source: TencentARC/T2I-Adapter, whose colour adapter learned from such mosaics (cubic down, nearest up).
"""

from __future__ import annotations

import cv2

from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, register

CELL = 64
"""Side of a cell, px."""


def color_grid(image: Array, ask: Ask) -> Array:
    """Flat cells; where 64 px do not divide a side evenly, they are a little larger."""
    h, w = image.shape[:2]
    scale = ask.resolution / min(h, w)
    width, height = round(w * scale), round(h * scale)
    picture = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    cells = cv2.resize(picture, (width // CELL, height // CELL), interpolation=cv2.INTER_CUBIC)
    grid: Array = cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)
    return grid


register(
    Preprocessor(
        name="color",
        run=color_grid,
        label="t2ia_color_grid",
        control_types=("T2I-Adapter",),
    )
)
