"""ControlNet-XS adapters of diffusers' class, for the tiny UNets."""

from __future__ import annotations

from typing import Any

import nets
import torch
from diffusers import ControlNetXSAdapter
from torch import Tensor, nn

FAMILY = "ControlNet-XS"
WIDTHS = (32, 64, 64, 64)
"""Such that all group norms have 32 groups: diffusers' fused class caps them by those of a level's first."""


def heads(config: dict[str, Any], widths: tuple[int, ...]) -> list[int]:
    """By the authors' configurations: SD1 has 8, SD2 some of 8 channels, SDXL some of 64."""
    if config["cross_attention_dim"] == 768:
        return [8] * len(widths)
    return [width // (8 if len(widths) == 4 else 64) or 1 for width in widths]


def adapter(layout: str, seed: int = 0, *, learns: bool = False) -> ControlNetXSAdapter:
    """One whose zero convolutions are not zero."""
    torch.manual_seed(seed)
    config: dict[str, Any] = nets.LAYOUTS[layout]
    widths = WIDTHS[: len(config["block_out_channels"])]
    depth = config.get("transformer_layers_per_block", 1)
    net = ControlNetXSAdapter(
        conditioning_embedding_out_channels=nets.HINT,
        learn_time_embedding=learns,
        num_attention_heads=heads(config, widths),
        block_out_channels=widths,
        base_block_out_channels=config["block_out_channels"],
        cross_attention_dim=config["cross_attention_dim"],
        down_block_types=config["down_block_types"],
        transformer_layers_per_block=depth,
        upcast_attention=False,
        use_linear_projection=config.get("use_linear_projection", False),
    )
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and "cond_embedding" in name:
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Conv2d) and "_to_" in name:
            nn.init.kaiming_normal_(module.weight)
            module.weight.data *= 0.3
    net.controlnet_cond_embedding.conv_out.weight.data *= 4
    return net.eval().requires_grad_(False)


def tensors(layout: str, seed: int) -> dict[str, Tensor]:
    return dict(adapter(layout, seed).state_dict())
