"""ControlNet: a trained copy of the UNet's encoder that reads a picture (Zhang et al., arXiv 2302.05543)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Call, Control, Residuals, Services
from controlstack.layout import EncoderLayout, controlnet_names
from controlstack.weights import Header, read_tensors

OTHER_KINDS = ("lora_controlnet", "task_embedding", "control_add_embedding.", ".motion_modules.")
"""In the tensor names of relatives that are no plain ControlNets: Control-LoRA, Union, SparseCtrl."""

DIFFERENCE = "difference"
"""A tensor of this name says that what the UNet has too is stored as a difference from the UNet's weights."""


@dataclass(frozen=True)
class Reading:
    """What a file says of itself.

    prefix: in front of all its tensors' names
    names: diffusers' name -> the file's
    pooled: residuals are averaged over the picture
    """

    prefix: str
    names: Mapping[str, str]
    layout: EncoderLayout
    pooled: bool


class ControlNetFamily(Family):
    """Files with LDM's names (alone, behind `control_model.`, in a whole checkpoint) or with diffusers'."""

    name = "ControlNet"

    def match(self, header: Header) -> Match | None:
        found = _names(header.shapes)
        if found is None:
            return None
        prefix, names = found
        shapes = {ours: header.shapes[theirs] for ours, theirs in names.items()}
        layout = EncoderLayout.read(shapes, header.metadata)
        if layout.hint[0] != 3 or layout.in_channels != 4:
            raise ControlError(
                f"The ControlNet {header.path.name} cannot be used",
                f"It reads {layout.hint[0]} hint and {layout.in_channels} latent channels, not 3 and 4",
                "Choose another model",
            )
        # The one thing that no tensor tells: the shuffle model was trained with pooled residuals.
        pooled = "shuffle" in header.path.stem.lower()
        base = layout.base
        reading = Reading(prefix, names, layout, pooled)
        return Match(
            self,
            header,
            base,
            base.blocks + 1,
            of_checkpoint=DIFFERENCE in header.shapes,
            cond_only=pooled,
            detail=reading,
        )

    def load(self, match: Match, services: Services) -> nn.Module:
        from diffusers import ControlNetModel

        reading, header = cast(Reading, match.detail), cast(Header, match.header)
        with torch.device("meta"):
            net = ControlNetModel(**reading.layout.controlnet_config())
        _check_complete(header, reading, net)
        dtype = None if match.of_checkpoint else services.dtype
        tensors = read_tensors(header, reading.names.values(), dtype=dtype, device=services.device)
        weights = {ours: tensors[theirs] for ours, theirs in reading.names.items()}
        if match.of_checkpoint:
            weights = _with_base(weights, header, services)
        net.load_state_dict(weights, assign=True)
        net.requires_grad_(False).eval()  # torch 2.1 makes whatever it assigns require gradients
        return Network(net)

    def begin(self, start: Start) -> Control:
        pooled = cast(Reading, start.match.detail).pooled
        return Pass(cast(Network, start.model), start.hint, pooled=pooled)


class Network(nn.Module):
    """A ControlNet in two parts: the hint encoder runs once in a pass, the rest at each evaluation."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.hint_encoder: nn.Module = net.controlnet_cond_embedding
        net.controlnet_cond_embedding = nn.Identity()
        self.vector = net.config.addition_embed_type is not None
        if self.vector:
            # Hosts hand over LDM's finished vector. diffusers makes it of text_embeds and the sinusoids of
            # time_ids; without the sinusoids it only joins the two halves again.
            net.add_time_proj = nn.Identity()
        self.net: nn.Module = net


class Pass(Control):
    """One ControlNet in one sampling pass."""

    def __init__(self, network: Network, hint: Tensor, *, pooled: bool) -> None:
        self._network, self._pooled = network, pooled
        weight = next(network.hint_encoder.parameters())
        with torch.no_grad():
            self._hint: Tensor = network.hint_encoder(hint.to(weight))

    def residuals(self, call: Call) -> Residuals:
        hint, added = self._hint, None
        if self._network.vector:
            y = cast(Tensor, call.y).to(hint)
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
        return Residuals(tuple(finish(skip.to(call.x)) for skip in skips), finish(middle.to(call.x)))


def _keep(feature: Tensor) -> Tensor:
    return feature


def _pool(feature: Tensor) -> Tensor:
    """The average over the picture, at its full size."""
    return feature.mean((2, 3), keepdim=True).expand_as(feature)


def _names(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, Mapping[str, str]] | None:
    """The prefix, and diffusers' name -> the file's name; None for another kind of file."""
    if any(mark in name for name in shapes for mark in OTHER_KINDS):
        return None
    if "controlnet_cond_embedding.conv_in.weight" in shapes:
        return "", {name: name for name in shapes if name != DIFFERENCE}
    for prefix in ("", "control_model."):
        if f"{prefix}input_hint_block.0.weight" in shapes:
            return prefix, controlnet_names(shapes, prefix)
    return None


def _check_complete(header: Header, reading: Reading, net: nn.Module) -> None:
    """Every tensor of the network is in the file, in the right size, and the file has no other."""
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    held = {ours: header.shapes[theirs] for ours, theirs in reading.names.items()}
    known = {*reading.names.values(), DIFFERENCE}
    faults = {
        "it lacks": expected.keys() - held.keys(),
        "it has the unknown": held.keys() - expected.keys()
        | {name for name in header.shapes if name.startswith(reading.prefix) and name not in known},
        "of the wrong size are": {
            name for name in expected.keys() & held.keys() if expected[name] != held[name]
        },
    }
    for fault, names in faults.items():
        if names:
            raise ControlError(
                f"The ControlNet {header.path.name} cannot be used",
                f"It is damaged or a variant that this extension does not know: {fault} {_few(names)}",
                "Download it again, or choose another model",
            )


def _few(names: Collection[str]) -> str:
    more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more


def _with_base(weights: Mapping[str, Tensor], header: Header, services: Services) -> dict[str, Tensor]:
    """Differences become weights: the live UNet's are added wherever it has a tensor of the same name."""
    base = {name: services.weight(name) for name in weights if not name.startswith("controlnet_")}
    if not any(tensor is not None for tensor in base.values()):
        raise ControlError(
            f"The ControlNet {header.path.name} cannot be used",
            "It stores differences from the checkpoint's weights, and those cannot be read here",
            "Choose the full model of the same name",
        )
    return {name: _sum(stored, base.get(name)).to(services.dtype) for name, stored in weights.items()}


def _sum(stored: Tensor, base: Tensor | None) -> Tensor:
    if base is None:
        return stored
    if base.ndim == 4:
        base = base[
            :, : stored.shape[1]
        ]  # an inpaint checkpoint reads more channels than the latent's, behind it
    return stored.float() + base.to(stored.device, torch.float32)


register(ControlNetFamily())
