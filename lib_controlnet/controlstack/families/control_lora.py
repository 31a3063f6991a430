"""Control-LoRA: a ControlNet stored as a low-rank change of the UNet's own encoder (Stability AI).

In place of most weights a file has `up` and `down`, whose product is added to the live UNet's weight of the
same name, as ComfyUI reads them. The sum is made once, when the file is loaded for a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from controlstack import copied_encoder
from controlstack.copied_encoder import Network, Pass
from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Control, Services
from controlstack.layout import EncoderLayout
from controlstack.weights import Header, read_tensors

MARK = "lora_controlnet"
"""An empty tensor of this name is in every file."""


@dataclass(frozen=True)
class Reading:
    """What a file says of itself.

    names: diffusers' name -> the name that the whole weight would have in the file
    """

    names: Mapping[str, str]
    layout: EncoderLayout


class ControlLoraFamily(Family):
    """Files with LDM's names, for SDXL and SD1."""

    name = "Control-LoRA"

    def match(self, header: Header) -> Match | None:
        if MARK not in header.shapes:
            return None
        whole = _whole(header.shapes)
        found = copied_encoder.names(whole)
        if found is None:
            raise _unusable(header, "it has no hint encoder")
        _, names = found
        shapes = {ours: whole[theirs] for ours, theirs in names.items()}
        layout = copied_encoder.layout(header, shapes)
        reading = Reading(names, layout)
        layers = layout.base.blocks + 1
        return Match(self, header, layout.base, layers, of_checkpoint=True, detail=reading)

    def load(self, match: Match, services: Services) -> nn.Module:
        reading, header = cast(Reading, match.detail), cast(Header, match.header)
        net = copied_encoder.build(reading.layout)
        expected, whole = copied_encoder.shapes_of(net), _whole(header.shapes)
        held = {ours: whole[theirs] for ours, theirs in reading.names.items()}
        live = {name: services.weight(name) for name in expected if not name.startswith("controlnet_")}
        copied = {name: expected[name] for name, tensor in live.items() if tensor is not None}
        unknown = whole.keys() - {*reading.names.values(), MARK}
        copied_encoder.check(header, expected, copied | held, unknown)
        read = read_tensors(header, header.shapes.keys() - {MARK}, device=services.device)
        weights = {}
        for name, shape in expected.items():
            theirs = reading.names.get(name, "")
            if theirs in read:
                weight = read[theirs]
            else:
                if (base := live.get(name)) is None:
                    raise _unusable(
                        header, "it stores changes of the checkpoint's weights, which cannot be read here"
                    )
                # An inpaint checkpoint reads more channels than the latent's, behind it.
                weight = (
                    base.detach().to(services.device, torch.float32)[:, : shape[1]] if base.ndim > 1 else base
                )
                if theirs:
                    weight = weight + _change(read, theirs.removesuffix("weight")).reshape(shape)
            weights[name] = weight.to(services.dtype, copy=True)
        return Network(net, weights)

    def begin(self, start: Start) -> Control:
        return Pass(cast(Network, start.model), start.hint)


def _whole(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The names and shapes that the file would have if nothing in it were of low rank."""
    found = {name: shape for name, shape in shapes.items() if not name.endswith((".up", ".down"))}
    for name, shape in shapes.items():
        below = name.removesuffix("up") + "down"
        if name.endswith(".up") and below in shapes:
            found[name.removesuffix("up") + "weight"] = (shape[0], *shapes[below][1:])
    return found


def _change(read: Mapping[str, Tensor], layer: str) -> Tensor:
    """The product "out in·h·w" of a convolution's or a linear layer's `up` and `down`."""
    up, down = read[f"{layer}up"].float(), read[f"{layer}down"].float()
    return up.flatten(1) @ down.flatten(1)


def _unusable(header: Header, fault: str) -> ControlError:
    return ControlError(
        f"The Control-LoRA {header.path.name} cannot be used",
        fault[:1].upper() + fault[1:],
        "Download it again, or choose another model",
    )


register(ControlLoraFamily())
