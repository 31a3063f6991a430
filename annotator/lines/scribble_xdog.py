"""Scribbles by difference of Gaussians: white strokes where a picture is darker than its surroundings.

Source: Winnemöller, Kyprianidis and Olsen, XDoG, 2012, reduced to a threshold; σ 0.5 and 5 px are those of
ControlNet 1.1.
"""

from __future__ import annotations

import cv2
import numpy as np

from controlstack.image import Array, hwc3
from controlstack.preprocess import Ask, Preprocessor, Slider, at_resolution, register


@at_resolution
def scribble_xdog(picture: Array, ask: Ask) -> Array:
    """White where twice the darkness, in whole levels of the least dark channel, exceeds `ask.a`."""
    colours = picture.astype(np.float32)
    darker = (cv2.GaussianBlur(colours, (0, 0), 5.0) - cv2.GaussianBlur(colours, (0, 0), 0.5)).min(axis=2)
    levels = 255 - (255 - darker).clip(0, 255).astype(np.uint8)  # rounded up, but for float32's own noise
    strokes = 2.0 * levels > ask.a
    return hwc3(np.where(strokes, np.uint8(255), np.uint8(0)))


register(
    Preprocessor(
        name="scribble_xdog",
        run=scribble_xdog,
        label="scribble_xdog",
        control_types=("Scribble", "SparseCtrl"),
        a=Slider("XDoG Threshold", 1, 64, 0.01, 32),
    )
)
