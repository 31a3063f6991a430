"""ControlNet-Unions of diffusers' class, for the tiny UNets."""

from __future__ import annotations

from typing import Any

import diffusers
import nets
import torch
from torch import Tensor, nn

FAMILY = "ControlNet-Union"
LAYOUTS = ("sd1", "sdxl") if hasattr(diffusers, "ControlNetUnionModel") else ()
UNIT = {"union_control_type": "Depth"}


def union(layout: str, seed: int = 0, types: int = 6) -> Any:
    """Random, with no layer zero, and hints, types and pictures all felt."""
    torch.manual_seed(seed)
    config = dict(addition_time_embed_dim=8) | nets.LAYOUTS[layout]
    width = config["block_out_channels"][0]
    net = diffusers.ControlNetUnionModel(
        **config,
        conditioning_embedding_out_channels=nets.HINT,
        num_control_type=types,
        num_trans_channel=width,
        num_proj_channel=width,
        num_trans_head=4,
    )
    net.eval().requires_grad_(False)
    for module in net.controlnet_cond_embedding.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for zero in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        nn.init.normal_(zero.weight, std=0.1)
        nn.init.normal_(zero.bias, std=0.1)
    nn.init.normal_(net.spatial_ch_projs.weight, std=0.2)
    nn.init.normal_(net.spatial_ch_projs.bias, std=0.2)
    return net


def tensors(layout: str, seed: int) -> dict[str, Tensor]:
    return union(layout, seed).state_dict()
