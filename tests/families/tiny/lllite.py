"""LLLites for the tiny UNets, under the names and in the shapes of kohya's code."""

from __future__ import annotations

import re

import nets
import torch
from torch import Tensor, nn

FAMILY = "ControlNet-LLLite"
EMBEDDING, MLP = 16, 8


def targets(layout: str) -> dict[str, tuple[nn.Linear, int]]:
    """By kohya's name: the projection and its depth, 1 to 3. These are q, k and v in the encoder and SDXL's
    middle block; of attention to the prompt only q."""
    middle_is_too_small = len(nets.LAYOUTS[layout]["block_out_channels"]) == 4  # for any depth
    with torch.device("meta"):
        unet = nets.unet(nets.LAYOUTS[layout])
    found = {}
    for path, module in unet.named_modules():
        match = re.fullmatch(
            r"(down_blocks\.(\d)|mid_block)\.attentions\.(\d)\.(transformer_blocks\.\d\.attn(1\.to_[qkv]|2\.to_q))",
            path,
        )
        if match is None or (middle_is_too_small and match[1] == "mid_block"):
            continue
        block = (
            "middle_block_1"
            if match[2] is None
            else f"input_blocks_{3 * int(match[2]) + int(match[3]) + 1}_1"
        )
        depth = 3 if match[2] is None else int(match[2]) + 1
        found[f"lllite_unet_{block}_{match[4].replace('.', '_')}"] = (module, depth)
    return found


def tensors(layout: str, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    stored = {}
    for name, (projection, depth) in targets(layout).items():
        sides = {1: (4, 2), 2: (4, 4), 3: (4, 4, 2)}[depth]
        widths = (3, *[EMBEDDING // 2] * (len(sides) - 1), EMBEDDING)
        for i, side in enumerate(sides):
            convolution = nn.Conv2d(widths[i], widths[i + 1], side, stride=side)
            stored |= {f"{name}.conditioning1.{2 * i}.{k}": t for k, t in convolution.state_dict().items()}
        wide = projection.in_features
        for part, deep, out in (("down", wide, MLP), ("mid", MLP + EMBEDDING, MLP), ("up", MLP, wide)):
            linear = nn.Linear(deep, out)
            nn.init.normal_(linear.weight, std=1.5 / deep**0.5)
            stored |= {f"{name}.{part}.0.{k}": t for k, t in linear.state_dict().items()}
    return {name: tensor.detach() for name, tensor in stored.items()}
