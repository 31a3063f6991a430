"""The picture out of focus, for models that make the details up."""

from __future__ import annotations

import cv2

from controlstack.geometry import padded
from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, Slider, register


def blur_gaussian(image: Array, ask: Ask) -> Array:
    """Gaussian blur with σ = `ask.a` px; beyond the border lies the picture's mirror image."""
    picture, crop = padded(image, ask.resolution)
    blurred: Array = cv2.GaussianBlur(picture[crop], (0, 0), ask.a)
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
