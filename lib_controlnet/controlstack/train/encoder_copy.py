"""The trainable copy of a UNet's encoder behind zero convolutions (Zhang et al., arXiv 2302.05543, 3.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from controlstack import family
from controlstack.errors import ControlError
from controlstack.families.controlnet import ControlNetFamily, Reading
from controlstack.hosts import unet_diffusers
from controlstack.weights import read_header, read_tensors


def copy(unet: Any, hint_channels: tuple[int, ...] = (16, 32, 96, 256), seed: int = 0) -> Any:
    """A diffusers ControlNetModel in fp32 that has the UNet's encoder and, being new, adds exactly nothing.

    hint_channels: widths of the hint encoder, whose first layers are drawn from `seed`
    Raises ControlError for a UNet that sees more than the latents, as those for inpainting do.
    """
    from diffusers import ControlNetModel

    if unet.config.in_channels != 4:
        raise ControlError(
            f"The base's UNet reads {unet.config.in_channels} channels",
            "It is made for inpainting or depth, and a ControlNet reads the 4 of a picture's latents",
            "Train on the plain base; the ControlNet then works with both",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=hint_channels, load_weights_from_unet=False
        )
    encoder = unet.state_dict()
    shared = {name: encoder[name].float() for name in net.state_dict() if name in encoder}
    left = net.load_state_dict(shared, strict=False).missing_keys
    if strange := [name for name in left if not name.startswith("controlnet_")]:
        raise ControlError(f"The base's UNet has no {strange[0]}", "It is of a layout that cannot be copied")
    return net.train().requires_grad_(True)


def load(unet: Any, path: Path) -> Any:
    """The ControlNet in a file of any kind, ready to be trained further on this UNet.

    Raises ControlError if it is no ControlNet, or one for another base.
    """
    header = read_header(path)
    match = family.recognise(header)
    if not isinstance(match.family, ControlNetFamily) or match.of_checkpoint:
        raise ControlError(
            f"Training cannot start from {path.name}",
            f"It is of the kind {match.family.name} and no ControlNet of its own",
            "Choose a plain ControlNet",
        )
    base = unet_diffusers.base_of(unet)
    if reason := match.base.mismatch(base):
        raise ControlError(f"Training cannot start from {path.name}", reason, "Choose one for this base")
    reading = cast(Reading, match.detail)
    tensors = read_tensors(header, reading.names.values(), dtype=torch.float32)
    net = copy(unet, reading.layout.hint[1:])
    net.load_state_dict({ours: tensors[theirs] for ours, theirs in reading.names.items()})
    return net
