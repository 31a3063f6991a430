"""Between pictures and latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def encode(vae: Any, pictures: Tensor) -> Tensor:
    """Pictures "B 3 H W", 0..1, as latents "B 4 h w" scaled as the UNet wants them.

    Takes the mode of the VAE's distribution, not a draw: a picture always starts from the same latents.
    """
    pictures = pictures.to(_device(vae), vae.dtype) * 2 - 1
    modes = [vae.encode(picture[None]).latent_dist.mode() for picture in pictures]
    return torch.cat(modes) * vae.config.scaling_factor


def decode(vae: Any, latents: Tensor) -> Tensor:
    """The pictures "B 3 H W", 0..1, of scaled latents "B 4 h w"."""
    return shown(decode_raw(vae, latents))


def decode_raw(vae: Any, latents: Tensor) -> Tensor:
    """As `decode`, but as the VAE answers, about -1..1; one by one, which bounds the memory."""
    scaled = latents.to(_device(vae), vae.dtype) / vae.config.scaling_factor
    return torch.cat([vae.decode(one[None], return_dict=False)[0] for one in scaled]).float()


def shown(raw: Tensor) -> Tensor:
    """Pictures of 0..1 of what a VAE answers."""
    return (raw / 2 + 0.5).clamp(0, 1)


def _device(vae: Any) -> Any:
    """Where it computes, which is not where it lies while accelerate's hooks keep it elsewhere."""
    hooks = (getattr(module, "_hf_hook", None) for module in vae.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    return next((device for device in devices if device is not None), vae.device)
