"""The picture out of focus, for models that make the details up."""

from __future__ import annotations

import cv2

from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, Slider, at_resolution, register


@at_resolution
def blur_gaussian(picture: Array, ask: Ask) -> Array:
    """Gaussian blur with σ = `ask.a` px."""
    blurred: Array = cv2.GaussianBlur(picture, (0, 0), ask.a)
    return blurred


register(
    Preprocessor(
        name="blur_gaussian",
        run=blur_gaussian,
        label="blur_gaussian",
        control_types=("Tile",),
        a=Slider("Sigma", 0.01, 64, 0.01, 9),
    )
)
