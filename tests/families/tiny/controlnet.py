"""ControlNets of diffusers' class, for the tiny UNets."""

from __future__ import annotations

import nets
from torch import Tensor

FAMILY = "ControlNet"


def tensors(layout: str, seed: int) -> dict[str, Tensor]:
    return nets.controlnet(nets.LAYOUTS[layout], seed).state_dict()
