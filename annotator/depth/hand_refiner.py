"""Depth of hands as they should be, under its known name: listed, and not available.

Source: W. Lu and others, HandRefiner: Refining Malformed Hands in Generated Images by Diffusion-based
Conditional Inpainting, 2023. Why it stays so: docs/adr/0021-hands.md.
"""

from __future__ import annotations

from controlstack.errors import ControlError
from controlstack.preprocess import listed, register

register(
    listed(
        ControlError(
            "It draws hands by MANO's model of a hand, which may not be passed on",
            "Its file is a pickle, and the network that fits it, MeshGraphormer, is in no package",
            "Pose the hands with the pose editor, or use depth_anything_v2",
        ),
        name="depth_hand_refiner",
        label="depth_hand_refiner",
        control_types=("Depth",),
        network="MeshGraphormer",
    )
)
