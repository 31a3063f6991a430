"""ControlNet: a trainable copy of the UNet's encoder that reads a picture (Zhang et al., arXiv 2302.05543)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from controlstack.errors import ControlError
from controlstack.family import Control, Family, Match, register
from controlstack.joints import Call, Residuals, Services
from controlstack.layout import EncoderLayout, controlnet_names
from controlstack.weights import Header, read_tensors

OTHER_KINDS = ("lora_controlnet", "task_embedding", "control_add_embedding.", ".motion_modules.")
"""In the tensor names of relatives that are no plain ControlNets: Control-LoRA, Union, SparseCtrl."""

DIFFERENCE = "difference"
"""A tensor that says: what the file has in common with the UNet is stored as a difference from the UNet's weights."""


@dataclass(frozen=True)
class Reading:
    """names: diffusers' name -> the file's; pooled: residuals are averaged over the picture."""

    layout: EncoderLayout
    names: Mapping[str, str]
    pooled: bool


class ControlNetFamily(Family):
    """Files with the names of LDM (alone, behind `control_model.`, inside a whole checkpoint) or of diffusers."""

    name = "ControlNet"

    def match(self, header: Header) -> Match | None:
        names = _names(header.shapes)
        if names is None:
            return None
        shapes = {ours: header.shapes[theirs] for ours, theirs in names.items()}
        layout = EncoderLayout.read(shapes, header.metadata)
        if layout.hint[0] != 3 or layout.in_channels != 4:
            raise ControlError(
                f"The ControlNet {header.path.name} cannot be used",
                f"It reads a hint of {layout.hint[0]} channels and {layout.in_channels} latent channels, not 3 and 4",
                "Choose another model",
            )
        # The one thing that no tensor tells: the shuffle model was trained with pooled residuals.
        pooled = "shuffle" in header.path.stem.lower()
        base = layout.base
        return Match(self, header, base, base.blocks + 1, cond_only=pooled, detail=Reading(layout, names, pooled))

    def load(self, match: Match, services: Services) -> nn.Module:
        from diffusers import ControlNetModel

        reading = match.detail
        assert isinstance(reading, Reading)
        with torch.device("meta"):
            net = ControlNetModel(**reading.layout.controlnet_config())
        net.requires_grad_(False).eval()
        _check_complete(match.header, reading.names, net)
        difference = DIFFERENCE in match.header.shapes
        dtype = None if difference else services.dtype
        tensors = read_tensors(match.header, reading.names.values(), dtype=dtype, device=services.device)
        weights = {ours: tensors[theirs] for ours, theirs in reading.names.items()}
        if difference:
            weights = _with_base(weights, match.header, services)
        net.load_state_dict(weights, assign=True)
        return Network(net)

    def begin(self, model: nn.Module, match: Match, hint: Tensor) -> Control:
        assert isinstance(model, Network)
        assert isinstance(match.detail, Reading)
        return Pass(model, hint, pooled=match.detail.pooled)


class Network(nn.Module):
    """A ControlNet in two parts: the hint encoder, which runs once in a pass, and the rest, which runs at each step."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.hint_encoder: nn.Module = net.controlnet_cond_embedding
        net.controlnet_cond_embedding = nn.Identity()
        self.vector = net.config.addition_embed_type is not None
        if self.vector:
            # Hosts hand over LDM's finished vector. diffusers makes it from text_embeds and the sinusoids of time_ids;
            # without the sinusoids it only glues the two together again.
            net.add_time_proj = nn.Identity()
        self.net: nn.Module = net


class Pass:
    """One ControlNet in one sampling pass."""

    def __init__(self, network: Network, hint: Tensor, *, pooled: bool) -> None:
        self._network, self._pooled = network, pooled
        weight = next(network.hint_encoder.parameters())
        with torch.no_grad():
            self._hint: Tensor = network.hint_encoder(hint.to(weight))

    def residuals(self, call: Call) -> Residuals:
        hint, added = self._hint, None
        if self._network.vector:
            assert call.y is not None
            y = call.y.to(hint)
            added = {"text_embeds": y[:, :1], "time_ids": y[:, 1:]}
        with torch.no_grad():
            skips, middle = self._network.net(
                call.x.to(hint),
                call.t.to(hint.device),
                call.context.to(hint),
                hint,
                added_cond_kwargs=added,
                return_dict=False,
            )
        finish = _pool if self._pooled else _keep
        return Residuals(tuple(finish(skip).to(call.x) for skip in skips), finish(middle).to(call.x))


def _keep(feature: Tensor) -> Tensor:
    return feature


def _pool(feature: Tensor) -> Tensor:
    """The average over the picture, at its full size."""
    return feature.mean((2, 3), keepdim=True).expand_as(feature)


def _names(shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, str] | None:
    """diffusers' name -> the file's name, or None for another kind of file."""
    if any(mark in name for name in shapes for mark in OTHER_KINDS):
        return None
    if "controlnet_cond_embedding.conv_in.weight" in shapes:
        return {name: name for name in shapes if name != DIFFERENCE}
    for prefix in ("", "control_model."):
        if f"{prefix}input_hint_block.0.weight" in shapes:
            return controlnet_names(shapes, prefix)
    return None
