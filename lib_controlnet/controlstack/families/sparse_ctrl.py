"""SparseCtrl: a ControlNet made for AnimateDiff, which sees some frames of a film (Guo et al., arXiv
2311.16933). A single picture is one frame, and its hint is given.

It reads no latents, only the hint with a channel of ones that says "this frame is given". The motion modules
between its frames belong to AnimateDiff and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from controlstack import copied_encoder
from controlstack.copied_encoder import Network
from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Call, Control, Residuals, Services
from controlstack.layout import EncoderLayout
from controlstack.log import log
from controlstack.weights import Header, read_tensors

MOTION = ".motion_modules."
EMBEDDING = "controlnet_cond_embedding."


@dataclass(frozen=True)
class Reading:
    """What a file says of itself.

    shapes: of the tensors that are used
    latent: whether the hint is a picture's latents, read by one convolution
    """

    shapes: Mapping[str, tuple[int, ...]]
    layout: EncoderLayout
    latent: bool


class SparseCtrlFamily(Family):
    """Files with diffusers' names: of its class, or of AnimateDiff's, whose motion modules differ."""

    name = "SparseCtrl"

    def match(self, header: Header) -> Match | None:
        if not any(MOTION in name for name in header.shapes):
            return None
        shapes = {name: shape for name, shape in header.shapes.items() if MOTION not in name}
        latent = f"{EMBEDDING}weight" in shapes
        first = shapes.get(f"{EMBEDDING}weight" if latent else f"{EMBEDDING}conv_in.weight")
        if first is None or first[1] != (5 if latent else 4):
            raise ControlError(
                f"The SparseCtrl model {header.path.name} cannot be used",
                f"Its hint encoder reads {first[1] if first else 'no'} channels, not 5 or 4",
                "Choose another model",
            )
        layout = EncoderLayout.read(shapes, header.metadata)
        return Match(
            self,
            header,
            layout.base,
            layout.base.blocks + 1,
            detail=Reading(shapes, layout, latent),
        )

    def load(self, match: Match, services: Services) -> nn.Module:
        reading, header = cast(Reading, match.detail), cast(Header, match.header)
        layout = replace(reading.layout, hint=(3, 16)) if reading.latent else reading.layout
        net = copied_encoder.build(layout)
        if reading.latent:
            wide, deep, side, _ = reading.shapes[f"{EMBEDDING}weight"]
            net.controlnet_cond_embedding = nn.Conv2d(deep, wide, side, padding=side // 2, device="meta")
        copied_encoder.check(header, copied_encoder.shapes_of(net), reading.shapes)
        log.info("%s acts on each picture alone: its motion modules need AnimateDiff", header.path.name)
        return Network(
            net, read_tensors(header, reading.shapes, dtype=services.dtype, device=services.device)
        )

    def begin(self, start: Start) -> Control:
        latent = cast(Reading, start.match.detail).latent
        hint = start.services.encode(start.hint) if latent else start.hint
        return Pass(cast(Network, start.model), hint)


class Pass(Control):
    """One network in one sampling pass.

    hint: "1 3 H W", or the latents "1 4 h w" of a picture
    """

    def __init__(self, network: Network, hint: Tensor) -> None:
        self._network = network
        self._hint = network.embed(F.pad(hint, (0, 0, 0, 0, 0, 1), value=1.0))

    def residuals(self, call: Call) -> Residuals:
        return self._network.evaluate(replace(call, x=torch.zeros_like(call.x)), self._hint)


register(SparseCtrlFamily())
