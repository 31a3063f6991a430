"""Canny edges: white lines of one pixel where brightness jumps.

Source: J. Canny, A Computational Approach to Edge Detection, 1986, as in OpenCV, with the thresholds of
lllyasviel/ControlNet's annotator.
"""

from __future__ import annotations

import cv2

from controlstack.image import Array, hwc3
from controlstack.preprocess import Ask, Preprocessor, Slider, at_resolution, register


@at_resolution
def canny(picture: Array, ask: Ask) -> Array:
    """White edges on black. `ask.a` and `ask.b`: gradients below a are no edge, above b they are one."""
    return hwc3(cv2.Canny(picture, ask.a, ask.b))


register(
    Preprocessor(
        name="canny",
        run=canny,
        label="canny",
        control_types=("Canny",),
        priority=100,
        a=Slider("Low Threshold", 1, 255, 1, 100),
        b=Slider("High Threshold", 1, 255, 1, 200),
        soft_in_hires=True,
    )
)
