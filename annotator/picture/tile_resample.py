"""The picture in a lower resolution, for tile models: the lower it is, the more details they invent."""

from __future__ import annotations

import cv2
import numpy as np

from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, Slider, register


def tile_resample(image: Array, ask: Ask) -> Array:
    """The picture `ask.a` times smaller, by area means; below 1.1 it stays as it is."""
    if ask.a < 1.1:
        return np.copy(image)
    h, w = image.shape[:2]
    size = max(1, int(w / ask.a)), max(1, int(h / ask.a))
    smaller: Array = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return smaller


register(
    Preprocessor(
        name="tile_resample",
        run=tile_resample,
        label="tile_resample",
        control_types=("Tile",),
        priority=100,
        resolution=None,
        a=Slider("Down Sampling Rate", 1, 8, 0.01, 1),
    )
)
