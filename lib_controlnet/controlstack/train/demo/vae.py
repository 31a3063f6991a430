"""The demo's VAE: 128 × 128 px to 16 × 16 cells of 4 channels, in the layout of Stable Diffusion's.

Group norms of 32 groups are fixed in that layout, and a group of one channel would lose every mean, so no
level is narrower than 64 channels; what that costs at full resolution is saved by leaving blocks at rest.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 64, 128, 128)
SCALE = 0.18215
"""What a host multiplies latents by; see `normalise`."""
_CONSTANT = 4.0
NOISE = 0.15
"""Standard deviation of the posterior while training, in units of the latents."""


def build() -> Any:
    """diffusers' `AutoencoderKL`, untrained, with its blocks of full resolution and its attention at rest."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        latent_channels=4,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=SCALE,
    )
    encoder, decoder = vae.encoder, vae.decoder
    for block in (
        encoder.down_blocks[0].resnets[0],
        encoder.mid_block.resnets[1],
        *decoder.up_blocks[3].resnets,
        decoder.up_blocks[2].resnets[1],
        decoder.up_blocks[1].resnets[1],
    ):
        _rest(block)
    for middle in (encoder.mid_block, decoder.mid_block):
        _zero(middle.attentions[0].to_out[0])
        middle.attentions[0].forward = _unchanged
    _steady(encoder.down_blocks[2].downsamplers[0].conv, encoder.conv_norm_out)
    _steady(decoder.up_blocks[2].upsamplers[0].conv, decoder.conv_norm_out)
    return vae


@torch.no_grad()
def _steady(convolution: Any, norm: Any) -> None:
    """Let a convolution give each group of a norm one large constant channel to start with.

    Beside it the others are small, so the norm hardly changes them: means, which are colours, get through.
    """
    members = norm.num_channels // norm.num_groups
    convolution.weight[::members] = 0
    convolution.bias[::members] = _CONSTANT
    # Of `members` channels one is constant and the others 0: the deviation is this share of the constant.
    norm.weight *= _CONSTANT * (members - 1) ** 0.5 / members


def _rest(block: Any) -> None:
    """Leave a residual block at zero, and do not spend time on it."""
    _zero(block.conv1)
    _zero(block.conv2)
    shortcut = block.conv_shortcut
    block.forward = _unchanged if shortcut is None else lambda x, *_, **__: shortcut(x)


def _zero(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _unchanged(x: Tensor, *_: object, **__: object) -> Tensor:
    return x


def encode(vae: Any, pictures: Tensor) -> Tensor:
    """The mean of the posterior, "B 4 h w"; pictures "B 3 h w" from -1 to 1."""
    moments: Tensor = vae.quant_conv(vae.encoder(pictures))
    return moments[:, :4]


def decode(vae: Any, latents: Tensor) -> Tensor:
    pictures: Tensor = vae.decoder(vae.post_quant_conv(latents))
    return pictures


def loss(vae: Any, pictures: Tensor) -> Tensor:
    """Differences of pictures and of their slopes, so that edges survive, and a pull of the latents to 0."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = encode(vae, pictures).float()
        made = decode(vae, latents + NOISE * torch.randn_like(latents)).float()
    off = made - pictures
    slopes = (off[..., 1:, :] - off[..., :-1, :]).abs().mean() + (off[..., 1:] - off[..., :-1]).abs().mean()
    return F.l1_loss(made, pictures) + 2 * slopes + 2e-3 * latents.square().mean()


@torch.no_grad()
def normalise(vae: Any, latents: Tensor) -> None:
    """Make each latent channel of mean 0 and deviation 1 / `SCALE`; pictures stay what they are.

    latents: of many pictures, as they are now.
    """
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    factor = 1 / (SCALE * deviation)
    inward, outward = vae.quant_conv, vae.post_quant_conv
    inward.weight[:4] *= factor[:, None, None, None]
    inward.bias[:4] = (inward.bias[:4] - mean) * factor
    inward.weight[4:] = 0
    inward.bias[4:] = 2 * torch.log(NOISE * factor)
    outward.bias += outward.weight[:, :, 0, 0] @ mean
    outward.weight /= factor[None, :, None, None]
