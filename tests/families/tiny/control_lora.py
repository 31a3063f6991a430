"""Control-LoRAs of rank 4 for the tiny UNets, under the names of Stability's files."""

from __future__ import annotations

import nets
import torch
from torch import Tensor

FAMILY = "Control-LoRA"
RANK = 4


def tensors(layout: str, seed: int) -> dict[str, Tensor]:
    """Every weight of the encoder as `up` and `down`; biases, norms, the hint encoder and zero convolutions
    whole."""
    whole = nets.in_ldm(nets.controlnet(nets.LAYOUTS[layout], seed).state_dict())
    generator = torch.Generator().manual_seed(seed)
    stored = {"lora_controlnet": torch.zeros(1)}
    for name, tensor in whole.items():
        own = name.startswith(("input_hint_block", "zero_convs", "middle_block_out"))
        if own or tensor.ndim < 2:
            stored[name] = tensor
            continue
        layer, wide, rest = name.removesuffix("weight"), tensor.shape[0], tensor.shape[1:]
        scale = 0.3 * tensor.std() / RANK**0.25
        stored[f"{layer}up"] = torch.randn(wide, RANK, *[1] * (tensor.ndim - 2), generator=generator)
        stored[f"{layer}down"] = torch.randn(RANK, *rest, generator=generator) * scale
    return stored
