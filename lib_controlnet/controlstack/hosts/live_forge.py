"""The services of a checkpoint in the Forge family's patchers.

Forge and Forge Neo keep them in `backend`, reForge and Forge Classic in `ldm_patched`, with other names for
the same things.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor

from controlstack.errors import ControlError
from controlstack.hosts.live_ldm import LDMLayers
from controlstack.joints import Prediction
from controlstack.layout import Base

_KINDS = {
    "EPS": "epsilon",
    "V_PREDICTION": "v_prediction",
    "V_PREDICTION_EDM": "v_prediction",
    "EDM": "edm",
}
"""reForge's `ModelType`s by diffusers' names, which Forge has too."""


def base_of(model: Any) -> Base:
    """What a checkpoint is, by what the host detected: its quantised layers have no shapes to read.

    Raises ControlError for what has no UNet, as Flux.
    """
    patched = model.forge_objects.unet.model
    unet = patched.diffusion_model
    if not hasattr(unet, "input_blocks"):
        raise ControlError(
            "The checkpoint cannot be controlled",
            "It is neither of SD1, SD2 nor SDXL, and ControlNets for other kinds are not supported here",
            "Choose another checkpoint, or disable the units",
        )
    config = _detected(patched)
    return Base(
        width=config["model_channels"],
        context=config["context_dim"],
        vector=config["adm_in_channels"] if model.is_sdxl else None,
        blocks=len(unet.input_blocks),
        extra=unet.in_channels - unet.out_channels,
    )


def _detected(patched: Any) -> Mapping[str, Any]:
    described = patched.model_config if hasattr(patched, "model_config") else patched.config
    return cast(Mapping[str, Any], described.unet_config)


class LiveForge(LDMLayers):
    """The services of a checkpoint.

    model: the host's `sd_model`
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.patcher = model.forge_objects.unet
        self.patched = self.patcher.model
        self._t, self._sigmas = torch.empty(0), torch.empty(0)

    @property
    def unet(self) -> Any:
        """The UNet, with the module names of LDM's."""
        return self.patched.diffusion_model

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self.patcher.load_device)

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in, however its weights are stored."""
        if hasattr(self.patched, "computation_dtype"):
            return cast(torch.dtype, self.patched.computation_dtype)
        return cast(torch.dtype, self.patched.manual_cast_dtype or self.patched.get_dtype())

    @property
    def checkpoint(self) -> Hashable:
        return id(self.patched), self.model.sd_checkpoint_info.filename

    def weight(self, name: str) -> Tensor | None:
        """As the checkpoint has it: the host keeps what a LoRA changes in a copy."""
        if name not in self.names:
            return None
        theirs = self.names[name]
        kept = _originals(self.patcher).get(f"diffusion_model.{theirs}")
        kept = getattr(kept, "weight", kept)
        return _dequantised(self.unet.get_parameter(theirs) if kept is None else kept).to(
            self.device, self.dtype
        )

    def evaluate(self, t: Tensor, sigmas: Tensor) -> None:
        """Hear which noise levels the evaluation has, "R" or "B": the host rounds their timesteps "R"."""
        self._t, self._sigmas = t, sigmas.repeat(len(t) // len(sigmas))

    def prediction(self, t: Tensor) -> Prediction:
        """Raises ControlError for checkpoints that predict something else than noise, velocity or EDM's."""
        exact = dict(zip(self._t.tolist(), self._sigmas.tolist(), strict=True))
        of_timesteps = self._predictor.sigma(t.float()).tolist()
        levels = [exact.get(at, sigma) for at, sigma in zip(t.tolist(), of_timesteps, strict=True)]
        sigma = torch.tensor(levels, device=t.device).reshape(-1, 1, 1, 1)
        whole = (self._predictor.sigma_data**2 + sigma**2).sqrt()
        return Prediction(1 / whole, sigma / whole, self._kind)

    @property
    def _predictor(self) -> Any:
        return self.patched.predictor if hasattr(self.patched, "predictor") else self.patched.model_sampling

    @property
    def _kind(self) -> str:
        if hasattr(self.patched, "model_type"):
            kind = _KINDS.get(self.patched.model_type.name, self.patched.model_type.name)
        else:
            kind = self._predictor.prediction_type
        if kind not in _KINDS.values():
            raise ControlError(
                "The checkpoint cannot be controlled in this way",
                f"It predicts {kind}, and only noise, velocity and EDM are supported",
                "Choose another checkpoint or another kind of control",
            )
        return str(kind)

    def encode(self, picture: Tensor) -> Tensor:
        """The host draws from the distribution that the VAE puts out, so its mean is read on the way; what is
        drawn later, by the host itself, stays the same."""
        vae = self.model.forge_objects.vae
        moments: list[Tensor] = []
        coder = vae.first_stage_model
        reading = coder.quant_conv.register_forward_hook(lambda *call: moments.append(call[2]))
        with torch.no_grad(), torch.random.fork_rng(devices=()), reading:
            vae.encode(picture.movedim(1, -1).float())
        means = torch.cat(moments).float().chunk(2, dim=1)[0]
        scaled = (
            coder.process_in(means) if hasattr(coder, "process_in") else self.patched.process_latent_in(means)
        )
        return cast(Tensor, scaled.to(self.device))


def _originals(patcher: Any) -> Mapping[str, Any]:
    """What a LoRA has replaced, by names within the patched model."""
    loader = getattr(patcher.model, "lora_loader", None)
    return cast(Mapping[str, Any], patcher.backup if loader is None else loader.backup)


def _dequantised(weight: Any) -> Tensor:
    """A weight as the host computes with it."""
    if getattr(weight, "bnb_quantized", False):
        return cast(Tensor, import_module("backend.operations_bnb").functional_dequantize_4bit(weight))
    if getattr(weight, "gguf_cls", None) is not None:
        return cast(Tensor, import_module("backend.operations_gguf").dequantize_tensor(weight))
    return cast(Tensor, weight)
