"""Black and white: white where even the darkest channel is brighter than a threshold."""

from __future__ import annotations

import numpy as np

from controlstack.image import Array, hwc3
from controlstack.preprocess import Ask, Preprocessor, Slider, at_resolution, register


@at_resolution
def threshold(picture: Array, ask: Ask) -> Array:
    """White where the least of R, G and B exceeds `ask.a` (0..255)."""
    bright = picture.min(axis=2) > ask.a
    return hwc3(np.where(bright, np.uint8(255), np.uint8(0)))


register(
    Preprocessor(
        name="threshold",
        run=threshold,
        label="threshold",
        a=Slider("Binarization Threshold", 0, 255, 0.01, 127),
    )
)
