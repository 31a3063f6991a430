"""The picture without its colours, for models that give it new ones: its luminance, or its intensity.

The control type Recolor puts this map back into the result. Luminance is L of CIE L*a*b*, intensity V of HSV.
"""

from __future__ import annotations

import cv2
import numpy as np

from controlstack.image import Array, hwc3
from controlstack.preprocess import Ask, Preprocessor, Slider, register


def recolor_luminance(image: Array, ask: Ask) -> Array:
    """Lightness as the eye sees it, L* · 2.55, to the power of `ask.a`."""
    return _grey(cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[:, :, 0], ask.a)


def recolor_intensity(image: Array, ask: Ask) -> Array:
    """The brightest of R, G and B, to the power of `ask.a`."""
    return _grey(image.max(axis=2), ask.a)


def _grey(level: Array, gamma: float) -> Array:
    curve = (np.arange(256, dtype=np.float32) / 255) ** gamma
    return hwc3((curve * 255).astype(np.uint8)[level])


GAMMA = Slider("Gamma Correction", 0.1, 2, 0.001, 1)

register(
    Preprocessor(
        name="recolor_luminance",
        run=recolor_luminance,
        label="recolor_luminance",
        control_types=("Recolor",),
        priority=100,
        resolution=None,
        a=GAMMA,
        companions=("recolour by lightness",),
    )
)
register(
    Preprocessor(
        name="recolor_intensity",
        run=recolor_intensity,
        label="recolor_intensity",
        control_types=("Recolor",),
        resolution=None,
        a=GAMMA,
        companions=("recolour by intensity",),
    )
)
