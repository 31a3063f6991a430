"""Depth by Depth Anything 3: listed, and not available.

Source: H. Lin and others, Depth Anything 3: Recovering the Visual Space from Any Views, 2025.
"""

from __future__ import annotations

from controlstack.errors import ControlError
from controlstack.preprocess import listed, register

register(
    listed(
        ControlError(
            "transformers does not have its network yet",
            "Its authors' package asks for versions that a WebUI's other packages do not work with",
            "Use depth_anything_v2, or depth_pro for sharper outlines",
        ),
        name="depth_anything_v3",
        label="depth_anything_v3",
        control_types=("Depth",),
        network="Depth Anything 3",
    )
)
