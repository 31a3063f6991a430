"""The services of the embedded host's UNet, also while its weights lie elsewhere to save memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from controlstack.hosts import unet_diffusers
from controlstack.hosts.embedded import latents, offload


@dataclass(frozen=True)
class LiveUNet(unet_diffusers.LiveUNet):
    """`computes_on` is not where the weights lie while they are offloaded."""

    computes_on: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def device(self) -> torch.device:
        return self.computes_on

    def weight(self, name: str) -> Tensor | None:
        found = super().weight(name)
        return offload.kept(self.unet, name) if found is not None and found.is_meta else found

    def encode(self, picture: Tensor) -> Tensor:
        with torch.no_grad():
            return latents.encode(self.vae, picture)
