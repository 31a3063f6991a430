"""Small nets with seeded random weights in the layouts of SD1, SD2 and SDXL: they paint textures, quickly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from controlstack.hosts.embedded import tokenizer

_TEXT = 64
"""Channels of the text encoders."""


def sd1(seed: int = 0) -> dict[str, Any]:
    """The parts of a pipeline by diffusers' names: 12 skips, convolutions around transformers, 8 heads."""
    with seeded(seed):
        return {
            "unet": _unet(cross_attention_dim=_TEXT, attention_head_dim=8),
            "vae": _vae(),
            "text_encoder": _text("quick_gelu"),
            "tokenizer": tokenizer.clip(),
        }


def sd2(seed: int = 0) -> dict[str, Any]:
    """As SD1, but linear layers around the transformers and heads of 64 channels."""
    with seeded(seed):
        return {
            "unet": _unet(
                cross_attention_dim=_TEXT, attention_head_dim=(1, 1, 2, 2), use_linear_projection=True
            ),
            "vae": _vae(),
            "text_encoder": _text("gelu"),
            "tokenizer": tokenizer.clip(pad="!"),
        }


def sdxl(seed: int = 0) -> dict[str, Any]:
    """9 skips, no attention at first, deep transformers, two text encoders, a vector conditioning."""
    with seeded(seed):
        return {
            "unet": _unet(
                block_out_channels=(32, 64, 128),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 1, 2),
                attention_head_dim=(1, 1, 2),
                cross_attention_dim=2 * _TEXT,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=_TEXT + 6 * 256,
            ),
            "vae": _vae(scaling_factor=0.13025),
            "text_encoder": _text("quick_gelu"),
            "tokenizer": tokenizer.clip(),
            "text_encoder_2": _text("gelu", projected=True),
            "tokenizer_2": tokenizer.clip(pad="!"),
        }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _unet(**layout: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**{"sample_size": 64, "block_out_channels": (32, 64, 128, 128), **layout})


def _vae(scaling_factor: float = 0.18215) -> Any:
    from diffusers import AutoencoderKL

    widths = (32, 32, 64, 64)
    return AutoencoderKL(
        latent_channels=4,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        scaling_factor=scaling_factor,
    )


def _text(activation: str, *, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=_TEXT,
        intermediate_size=2 * _TEXT,
        num_hidden_layers=2,
        num_attention_heads=1,
        hidden_act=activation,
        projection_dim=_TEXT,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
