"""Tiny nets of every layout, and files of them with diffusers' or with LDM's names.

The configurations are written out by hand after the published ones, so that tests do not read them with the
code they test. LDM's names follow CompVis/latent-diffusion's `openaimodel.UNetModel`, lllyasviel/ControlNet's
`cldm.ControlNet` and, for `label_emb`, Stability-AI/generative-models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

Config = dict[str, Any]

DOWN, ATTENTION = "DownBlock2D", "CrossAttnDownBlock2D"
HINT = (4, 8, 8, 16)
RESNETS = 2

SD1: Config = dict(
    block_out_channels=(32, 64, 128, 128),
    down_block_types=(ATTENTION, ATTENTION, ATTENTION, DOWN),
    cross_attention_dim=768,
    attention_head_dim=8,
)
SD2: Config = SD1 | dict(
    cross_attention_dim=1024, attention_head_dim=(1, 1, 2, 2), use_linear_projection=True
)
NARROW: Config = SD1 | dict(block_out_channels=(48, 96, 96, 48), cross_attention_dim=40, norm_num_groups=16)
SDXL: Config = dict(
    block_out_channels=(32, 64, 128),
    down_block_types=(DOWN, ATTENTION, ATTENTION),
    transformer_layers_per_block=(1, 2, 3),
    cross_attention_dim=64,
    attention_head_dim=(1, 1, 2),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=24 + 6 * 8,
)
SDXL_MID: Config = SDXL | dict(
    down_block_types=(DOWN, DOWN, ATTENTION), transformer_layers_per_block=(1, 1, 1)
)
SDXL_SMALL: Config = SDXL | dict(down_block_types=(DOWN, DOWN, DOWN), mid_block_type="UNetMidBlock2D")

LAYOUTS = {
    "sd1": SD1,
    "sd2": SD2,
    "narrow": NARROW,
    "sdxl": SDXL,
    "sdxl mid": SDXL_MID,
    "sdxl small": SDXL_SMALL,
}

FULL_SD1: Config = dict(cross_attention_dim=768, attention_head_dim=8)
"""lllyasviel/control_v11p_sd15_canny."""
FULL_SD2: Config = dict(
    cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
)
"""thibaud/controlnet-sd21-canny-diffusers."""
FULL_SDXL: Config = SDXL | dict(
    block_out_channels=(320, 640, 1280),
    transformer_layers_per_block=(1, 2, 10),
    cross_attention_dim=2048,
    attention_head_dim=(5, 10, 20),
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
"""diffusers/controlnet-canny-sdxl-1.0."""
FULL_SDXL_MID: Config = FULL_SDXL | dict(
    down_block_types=SDXL_MID["down_block_types"], transformer_layers_per_block=(1, 1, 1)
)
FULL_SDXL_SMALL: Config = FULL_SDXL | dict(
    down_block_types=SDXL_SMALL["down_block_types"], mid_block_type="UNetMidBlock2D"
)


@dataclass
class Host:
    """A host of which tests choose device, dtype and weights."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def weight(self, name: str) -> Tensor | None:
        return self.weights.get(name)


def controlnet(config: Config, seed: int = 0, hint: tuple[int, ...] | None = None) -> ControlNetModel:
    """A ControlNet with random weights, none of them zero, whose hint has a strong effect."""
    torch.manual_seed(seed)
    channels = hint or HINT
    net = ControlNetModel(conditioning_embedding_out_channels=channels, **config)
    net.eval().requires_grad_(False)
    for conv in (
        module for module in net.controlnet_cond_embedding.modules() if isinstance(module, nn.Conv2d)
    ):
        nn.init.kaiming_normal_(conv.weight)
    for conv in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        nn.init.normal_(conv.weight, std=0.1)
        nn.init.normal_(conv.bias, std=0.1)
    return net


def unet(config: Config, seed: int = 0) -> UNet2DConditionModel:
    """The UNet that a ControlNet of this configuration is made for, with random weights."""
    torch.manual_seed(seed)
    down = reversed(config["down_block_types"])
    up = tuple("UpBlock2D" if kind == DOWN else "CrossAttnUpBlock2D" for kind in down)
    return UNet2DConditionModel(**config, up_block_types=up).eval().requires_grad_(False)


def full_size_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """What the header of a published ControlNet says, with diffusers' names."""
    with torch.device("meta"):
        net = ControlNetModel(**config)
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write a .safetensors file."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, dict(metadata or {}))
    return path


def in_ldm(tensors: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The same tensors under the names of the original code."""
    levels = {name.split(".")[1] for name in tensors if name.startswith("down_blocks.")}
    attended = {name.split(".")[1] for name in tensors if re.match(r"up_blocks\.\d+\.attentions", name)}
    rename = _Renaming(len(levels), attended)
    return {prefix + rename(name): tensor for name, tensor in tensors.items()}


class _Renaming:
    """diffusers' name -> LDM's name."""

    def __init__(self, levels: int, attended: set[str]) -> None:
        per_level = RESNETS + 1

        def down(offset: int) -> Callable[[re.Match[str]], str]:
            return lambda m: f"input_blocks.{int(m[1]) * per_level + int(m[2]) + 1}.{offset}."

        def up(offset: int) -> Callable[[re.Match[str]], str]:
            return lambda m: f"output_blocks.{int(m[1]) * per_level + int(m[2])}.{offset}."

        def upsampler(m: re.Match[str]) -> str:
            return f"output_blocks.{int(m[1]) * per_level + RESNETS}.{2 if m[1] in attended else 1}.conv."

        self.rules: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
            (r"^conv_in\.", "input_blocks.0.0."),
            (r"^time_embedding\.linear_1\.", "time_embed.0."),
            (r"^time_embedding\.linear_2\.", "time_embed.2."),
            (r"^add_embedding\.linear_1\.", "label_emb.0.0."),
            (r"^add_embedding\.linear_2\.", "label_emb.0.2."),
            (r"^down_blocks\.(\d+)\.resnets\.(\d+)\.", down(0)),
            (r"^down_blocks\.(\d+)\.attentions\.(\d+)\.", down(1)),
            (
                r"^down_blocks\.(\d+)\.downsamplers\.0\.conv\.",
                lambda m: f"input_blocks.{(int(m[1]) + 1) * per_level}.0.op.",
            ),
            (r"^mid_block\.resnets\.0\.", "middle_block.0."),
            (r"^mid_block\.attentions\.0\.", "middle_block.1."),
            (r"^mid_block\.resnets\.1\.", "middle_block.2."),
            (r"^up_blocks\.(\d+)\.resnets\.(\d+)\.", up(0)),
            (r"^up_blocks\.(\d+)\.attentions\.(\d+)\.", up(1)),
            (r"^up_blocks\.(\d+)\.upsamplers\.0\.conv\.", upsampler),
            (r"^conv_norm_out\.", "out.0."),
            (r"^conv_out\.", "out.2."),
            (r"^controlnet_down_blocks\.(\d+)\.", r"zero_convs.\1.0."),
            (r"^controlnet_mid_block\.", "middle_block_out.0."),
            (r"^controlnet_cond_embedding\.conv_in\.", "input_hint_block.0."),
            (
                r"^controlnet_cond_embedding\.blocks\.(\d+)\.",
                lambda m: f"input_hint_block.{2 * int(m[1]) + 2}.",
            ),
            (r"^controlnet_cond_embedding\.conv_out\.", "input_hint_block.14."),
        ]
        self.resnet = {
            ".norm1.": ".in_layers.0.",
            ".conv1.": ".in_layers.2.",
            ".time_emb_proj.": ".emb_layers.1.",
            ".norm2.": ".out_layers.0.",
            ".conv2.": ".out_layers.3.",
            ".conv_shortcut.": ".skip_connection.",
        }

    def __call__(self, name: str) -> str:
        if ".resnets." in name:
            for ours, theirs in self.resnet.items():
                name = name.replace(ours, theirs)
        for pattern, replacement in self.rules:
            name, found = re.subn(pattern, replacement, name)
            if found:
                return name
        raise ValueError(f"LDM has no name for {name}")
