"""What a job may ask for, so that one request cannot take the host down."""

from __future__ import annotations

import math
from typing import Any

_RANGES: dict[str, tuple[float, float]] = {
    "width": (8, 8192),
    "height": (8, 8192),
    "steps": (1, 1000),
    "batch_size": (1, 64),
    "n_iter": (1, 1000),
    "cfg_scale": (-100, 100),
    "subseed_strength": (0, 1),
    "eta": (0, 1),
    "denoising_strength": (0, 1),
    "hr_scale": (1, 8),
    "hr_resize_x": (0, 8192),
    "hr_resize_y": (0, 8192),
    "hr_second_pass_steps": (0, 1000),
    "mask_blur_x": (0, 256),
    "mask_blur_y": (0, 256),
    "inpaint_full_res_padding": (0, 8192),
    "inpainting_fill": (0, 3),
    "resize_mode": (0, 3),
}


def check(p: Any) -> None:
    """Raises ValueError with a sentence for a number out of its range, and for one that is no number."""
    for name, (least, most) in _RANGES.items():
        value = getattr(p, name, None)
        if value is not None and (math.isnan(value) or not least <= value <= most):
            raise ValueError(f"{name} is {value}; it can be {least:g} to {most:g}")
