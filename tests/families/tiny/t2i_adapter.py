"""T2I-Adapters of diffusers' class, for the tiny UNets."""

from __future__ import annotations

from typing import Any

import nets
import torch
from diffusers import T2IAdapter
from torch import Tensor

FAMILY = "T2I-Adapter"


def adapter(layout: str, seed: int = 0, **config: Any) -> T2IAdapter:
    """One whose features are as large as the UNet's."""
    torch.manual_seed(seed)
    widths = nets.LAYOUTS[layout]["block_out_channels"]
    xl = len(widths) == 3
    kind = "full_adapter_xl" if xl else "full_adapter"
    settings = dict(channels=[*widths, widths[-1]][:4], adapter_type=kind, downscale_factor=16 if xl else 8)
    net = T2IAdapter(**(settings | config)).eval().requires_grad_(False)
    for convolution in (module for module in net.modules() if isinstance(module, torch.nn.Conv2d)):
        torch.nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
    return net


def tensors(layout: str, seed: int) -> dict[str, Tensor]:
    return adapter(layout, seed).state_dict()
