"""The services of a checkpoint in the original code's classes, LDM's `LatentDiffusion` or sgm's
`DiffusionEngine`, as A1111 loads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from controlstack.hosts import unet_ldm
from controlstack.hosts.module_hooks import sites
from controlstack.joints import Prediction, Site, noise_levels
from controlstack.layout import Base, unet_names

_KINDS = {"eps": "epsilon", "v": "v_prediction"}


def base_of(model: Any) -> Base:
    """What a checkpoint is. SD2's unCLIP variants have a vector too, but no control is made for it."""
    unet = model.model.diffusion_model
    prompt = next((m for name, m in unet.named_modules() if name.endswith("attn2.to_k")), None)
    has_vector = unet.num_classes == "sequential" and model.model.conditioning_key != "crossattn-adm"
    return Base(
        width=unet.model_channels,
        context=None if prompt is None else prompt.in_features,
        vector=unet.label_emb[0][0].in_features if has_vector else None,
        blocks=len(unet.input_blocks),
        extra=unet.in_channels - unet.out_channels,
    )


class LDMLayers(ABC):
    """What the module names of LDM's UNet tell, whoever's class it is."""

    @property
    @abstractmethod
    def unet(self) -> Any:
        """The UNet."""

    @cached_property
    def sites(self) -> list[Site]:
        return [site for block, layers in unet_ldm.blocks(self.unet) for site, _ in sites(block, layers)]

    @cached_property
    def names(self) -> dict[str, str]:
        """diffusers' name of a weight -> LDM's."""
        return unet_names((name for name, _ in self.unet.named_parameters()), prefix="")


@dataclass(frozen=True)
class LiveLDM(LDMLayers):
    """The services of a checkpoint.

    model: of the host's
    device, dtype: in which the host computes
    """

    model: Any
    device: torch.device
    dtype: torch.dtype

    @property
    def unet(self) -> Any:
        """The `UNetModel`."""
        return self.model.model.diffusion_model

    @property
    def checkpoint(self) -> Hashable:
        """The host loads other weights into the same modules, and then names another file."""
        return id(self.model), self.model.sd_checkpoint_info.filename

    def weight(self, name: str) -> Tensor | None:
        """As the checkpoint has it: A1111 keeps what a LoRA changes in a copy beside it."""
        if name not in self.names:
            return None
        path, _, leaf = self.names[name].rpartition(".")
        module = self.unet.get_submodule(path)
        kept = getattr(
            module, {"weight": "network_weights_backup", "bias": "network_bias_backup"}[leaf], None
        )
        return (kept if isinstance(kept, Tensor) else getattr(module, leaf)).to(self.dtype)

    @cached_property
    def _levels(self) -> Tensor:
        return noise_levels(self.model.alphas_cumprod)

    def prediction(self, t: Tensor) -> Prediction:
        return Prediction.at(t, self._levels, _KINDS[self.model.parameterization])

    def encode(self, picture: Tensor) -> Tensor:
        """sgm draws from the distribution that the VAE puts out, so its mean is read on the way; what the
        host draws later stays the same."""
        vae = self.model.first_stage_model
        moments: list[Tensor] = []
        weight = next(vae.parameters())
        reading = vae.quant_conv.register_forward_hook(lambda *call: moments.append(call[2]))
        with torch.no_grad(), torch.random.fork_rng(devices=()), reading:
            vae.encode(picture.to(self.device, weight.dtype) * 2 - 1)
        return moments[0].chunk(2, dim=1)[0] * self.model.scale_factor
