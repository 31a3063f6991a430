"""CtrLoRA models of rank 4 and their base, for the tiny UNet of SD1, under the names of the authors' code."""

from __future__ import annotations

import nets
import torch
from torch import Tensor

FAMILY = "CtrLoRA"
LAYOUTS = ("sd1",)
RANK = 4
WHOLE = ("zero_convs", "middle_block_out", "norm")


def beside(layout: str) -> dict[str, dict[str, Tensor]]:
    return {"base.safetensors": ldm(layout, seed=0)}


def tensors(layout: str, seed: int) -> dict[str, Tensor]:
    """What `tool_extract_weights.py` takes: changes of all linear layers, zero convolutions and norms."""
    generator = torch.Generator().manual_seed(seed)
    stored = {}
    for name, tensor in ldm(layout, seed + 1).items():
        if any(part in name for part in WHOLE):
            stored[name] = tensor
        elif tensor.ndim == 2:
            layer, (wide, deep) = name.removesuffix("weight"), tensor.shape
            scale = 0.3 * tensor.std() / RANK**0.25
            stored[f"{layer}lora_layer.up.weight"] = torch.randn(wide, RANK, generator=generator)
            stored[f"{layer}lora_layer.down.weight"] = torch.randn(RANK, deep, generator=generator) * scale
    return stored


def ldm(layout: str, seed: int) -> dict[str, Tensor]:
    """A ControlNet without a hint encoder."""
    whole = nets.in_ldm(nets.controlnet(nets.LAYOUTS[layout], seed).state_dict(), "control_model.")
    return {name: tensor for name, tensor in whole.items() if "input_hint_block" not in name}
