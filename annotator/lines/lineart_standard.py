"""Line art from dark lines on a bright ground: how much darker a pixel is than its surroundings.

The constants are those of ControlNet 1.1: blur σ 6 px, a line from 8 levels on, its typical level 127.
"""

from __future__ import annotations

import cv2
import numpy as np

from controlstack.image import Array, hwc3
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register


@at_resolution
def lineart_standard(picture: Array, ask: Ask) -> Array:
    """Grey lines on black, scaled so that the median line has level 127; faint pictures are not blown up."""
    colours = picture.astype(np.float32)
    darkness = (cv2.GaussianBlur(colours, (0, 0), 6.0) - colours).min(axis=2).clip(0, 255)
    lines = darkness[darkness > 8]
    typical = max(16.0, float(np.median(lines))) if lines.size else 16.0
    return hwc3((darkness / typical * 127).clip(0, 255).astype(np.uint8))


register(
    Preprocessor(
        name="lineart_standard",
        run=lineart_standard,
        label="lineart_standard (from white bg & black line)",
        control_types=("Lineart",),
        priority=100,
    )
)
