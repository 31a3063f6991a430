"""The demo's base: SD1.5's layout, small. A UNet of 12 skips and a middle, and a narrow CLIP text encoder.

Attention starts at the second level: at the first, of 256 cells, it took two thirds of a training step.
It predicts v (Salimans and Ho, arXiv 2202.00512), which learns faster than noise does in so few steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from controlstack.train.demo.dataset import Encoded

WIDTHS = (64, 64, 128, 64)
ATTENDED = (False, True, True, False)
"""Which levels attend to themselves and to the prompt."""
HEAD = 32
"""Channels of an attention head in the UNet."""
TEXT = 32
"""Channels of a token; half of the file would be CLIP's vocabulary, were they more."""
TEXT_LAYERS = 2
HEADS = tuple(width // HEAD for width in WIDTHS)


BATCH = 32
DROPPED = 0.12
"""Share of the prompts that are empty in training."""
_CONSTANT = 4.0


def build_unet() -> Any:
    """An untrained UNet, its residual branches at zero as in LDM."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=WIDTHS,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in ATTENDED),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(ATTENDED)),
        cross_attention_dim=TEXT,
        attention_head_dim=HEADS,  # diffusers' misnomer: the number of heads
    )
    unet.set_attn_processor(AttnProcessor())  # with heads this small faster than torch's fused attention
    for name, module in unet.named_modules():
        if name.endswith((".conv2", ".proj_out")) or name == "conv_out":
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    _steady(unet.up_blocks[-1].resnets[-1], unet.conv_norm_out)
    return unet


@torch.no_grad()
def _steady(block: Any, norm: Any) -> None:
    """One large constant channel in each group of the last norm, so that means get through; as in the VAE."""
    members = norm.num_channels // norm.num_groups
    block.conv_shortcut.weight[::members] = 0
    block.conv_shortcut.bias[::members] = _CONSTANT
    norm.weight *= _CONSTANT * (members - 1) ** 0.5 / members


def text_config() -> dict[str, Any]:
    """Of transformers' `CLIPTextModel`; heads of 64 channels as in every CLIP."""
    return {
        "vocab_size": 49408,
        "hidden_size": TEXT,
        "intermediate_size": 4 * TEXT,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": max(1, TEXT // 64),
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": TEXT,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    }


def build_text_encoder() -> Any:
    """An untrained text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    model = CLIPTextModel(CLIPTextConfig(**text_config()))
    # A1111 scales emphasised tokens back to the mean of all numbers, which must not be 0 then.
    (last,) = (p for name, p in model.named_parameters() if name.endswith("final_layer_norm.bias"))
    nn.init.normal_(last, 0.3, 0.1)
    return model


def alphas() -> Tensor:
    """Share of the signal's variance at each of the 1000 timesteps, as in Stable Diffusion."""
    betas: Tensor = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return (1 - betas).cumprod(0)


class Loss:
    """Of a step: the error of the predicted v on scenes and timesteps drawn from the step's number."""

    def __init__(self, unet: Any, text_encoder: Any, scenes: Encoded, tokens: Tensor, empty: Tensor) -> None:
        self.unet, self.text_encoder = unet, text_encoder
        self.scenes, self.tokens, self.empty = scenes, tokens, empty
        self.alphas = alphas()

    def __call__(self, step: int) -> Tensor:
        rng = np.random.default_rng(step)
        chosen = rng.integers(0, len(self.scenes), BATCH)
        latents = torch.from_numpy(self.scenes.latents[chosen].astype(np.float32))
        dropped = torch.from_numpy(rng.random(BATCH) < DROPPED)
        tokens = torch.where(dropped[:, None], self.empty, self.tokens[torch.from_numpy(chosen)])
        with torch.autocast("cpu", torch.bfloat16):
            context = self.text_encoder(tokens).last_hidden_state
        return velocity_loss(self.alphas, latents, lambda x, t: self.unet(x, t, context).sample)


def velocity_loss(alphas: Tensor, latents: Tensor, predict: Any) -> Tensor:
    """The squared error of v, weighted by signal to noise up to 5 (Hang et al., arXiv 2303.09556)."""
    timestep = torch.randint(0, len(alphas), (len(latents),))
    share = alphas[timestep][:, None, None, None]
    noise = torch.randn_like(latents)
    noised = share.sqrt() * latents + (1 - share).sqrt() * noise
    wanted = share.sqrt() * noise - (1 - share).sqrt() * latents
    with torch.autocast("cpu", torch.bfloat16):
        predicted = predict(noised, timestep)
    signal = share / (1 - share)
    weight = signal.clamp(max=5) / (signal + 1)
    error: Tensor = (weight * (predicted.float() - wanted).square()).mean()
    return error
