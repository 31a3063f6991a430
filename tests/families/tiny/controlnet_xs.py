"""ControlNet-XS adapters of diffusers' class, for the tiny UNets; the same under the names of the authors'
`TwoStreamControlNet`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
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


def authors_tensors(layout: str, seed: int) -> dict[str, Tensor]:
    return in_authors(adapter(layout, seed, learns=True).state_dict())


def in_authors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of vislearn/ControlNet-XS."""
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("up_connections."))

    def within(name: str, after: int = 0) -> Callable[[re.Match[str]], str]:
        return lambda m: f"{name}.{3 * int(m[1]) + int(m[2]) + after}.0."

    rules: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (r"^control_to_base_for_conv_in\.", "enc_zero_convs_out.0.0."),
        (r"^down_blocks\.(\d)\.base_to_ctrl\.(\d)\.", within("enc_zero_convs_in")),
        (r"^down_blocks\.(\d)\.ctrl_to_base\.(\d)\.", within("enc_zero_convs_out", 1)),
        (r"^mid_block\.base_to_ctrl\.", f"enc_zero_convs_in.{3 * last + 2}.0."),
        (r"^mid_block\.ctrl_to_base\.", "middle_block_out.0."),
        (r"^up_connections\.(\d)\.ctrl_to_base\.(\d)\.", within("dec_zero_convs_out")),
    ]
    named = {"scale_list": torch.ones(2 * (3 * last + 3) + 1)}
    encoder = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            short, found = re.subn(pattern, replacement, name)
            if found:
                named[short] = tensor
                break
        else:
            plain = name.replace(".downsamplers.", ".downsamplers.0.").replace(".midblock.", ".")
            encoder[plain] = tensor
    for name, tensor in nets.in_ldm(encoder).items():
        named[name if name.startswith("input_hint_block.") else f"control_model.{name}"] = tensor
    return named


VARIANTS = {"ControlNet-XS of its authors": SimpleNamespace(LAYOUTS=("sd2",), tensors=authors_tensors)}
