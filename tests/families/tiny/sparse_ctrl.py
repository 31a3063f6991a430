"""SparseCtrl models for scribbles, for the tiny UNets, with a tensor of a motion module to leave out."""

from __future__ import annotations

import nets
import torch
from torch import Tensor

FAMILY = "SparseCtrl"


def tensors(layout: str, seed: int) -> dict[str, Tensor]:
    stored = nets.controlnet(nets.LAYOUTS[layout], seed).state_dict()
    first = "controlnet_cond_embedding.conv_in.weight"
    stored[first] = torch.cat([stored[first], stored[first].mean(1, keepdim=True)], 1)
    stored["down_blocks.0.motion_modules.0.norm.weight"] = torch.ones(8)
    return stored
