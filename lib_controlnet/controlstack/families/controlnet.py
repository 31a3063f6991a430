"""ControlNet: a trained copy of the UNet's encoder that reads a picture (Zhang et al., arXiv 2302.05543)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from controlstack import copied_encoder
from controlstack.copied_encoder import Network, Pass
from controlstack.errors import ControlError
from controlstack.family import Family, KnowsFace, Match, Start, register
from controlstack.joints import Call, Control, Residuals, Services
from controlstack.layout import EncoderLayout
from controlstack.weights import Header, read_tensors

OTHER_KINDS = (
    *("lora_controlnet", "task_embedding", "control_add_embedding.", ".motion_modules."),
    *("control_to_base_for_conv_in.", "double_blocks."),
)
"""In the tensor names of relatives that are no plain ControlNets: Control-LoRA, Union, SparseCtrl,
ControlNet-XS, and XLabs' ControlNets for Flux."""

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
        if any(mark in name for name in header.shapes for mark in OTHER_KINDS):
            return None
        found = copied_encoder.names(header.shapes)
        if found is None:
            return None
        prefix, names = found
        names = {ours: theirs for ours, theirs in names.items() if theirs != DIFFERENCE}
        layout = copied_encoder.layout(header, _shapes(header, names))
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
        reading, header = cast(Reading, match.detail), cast(Header, match.header)
        net = copied_encoder.build(reading.layout)
        known = {*reading.names.values(), DIFFERENCE}
        unknown = [n for n in header.shapes if n.startswith(reading.prefix) and n not in known]
        held = _shapes(header, reading.names)
        copied_encoder.check(header, copied_encoder.shapes_of(net), held, unknown)
        dtype = None if match.of_checkpoint else services.dtype
        tensors = read_tensors(header, reading.names.values(), dtype=dtype, device=services.device)
        weights = {ours: tensors[theirs] for ours, theirs in reading.names.items()}
        if match.of_checkpoint:
            weights = _with_base(weights, header, services)
        return Network(net, weights)

    def begin(self, start: Start) -> Control:
        network, stem = cast(Network, start.model), cast(Header, start.match.header).path.stem
        # Neither does a tensor tell that the network reads a face's tokens.
        if _INSTANT_ID.search(stem) or start.unit.module == KEYPOINTS:
            return FacePass(network, start.hint, start.fellows)
        return Pass(network, start.hint, pooled=cast(Reading, start.match.detail).pooled)


_INSTANT_ID = re.compile(r"instant[-_ ]?id", re.IGNORECASE)
KEYPOINTS = "instant_id_face_keypoints"


class FacePass(Pass):
    """InstantID's: what it reads in place of the prompt is the face of the nearest unit before it that knows
    one, or else of the first behind it (Wang et al., arXiv 2401.07519)."""

    def __init__(self, network: Network, hint: Tensor, fellows: Sequence[Control]) -> None:
        super().__init__(network, hint)
        self._fellows, self._place = fellows, len(fellows)

    def residuals(self, call: Call) -> Residuals:
        return super().residuals(replace(call, context=self._face(call)))

    def _face(self, call: Call) -> Tensor:
        near = (*reversed(self._fellows[: self._place]), *self._fellows[self._place :])
        for fellow in near:
            if isinstance(fellow, KnowsFace) and (tokens := fellow.face(call)) is not None:
                return tokens
        raise ControlError(
            "InstantID's ControlNet has no face",
            "It reads the face of a unit with InstantID's IP-Adapter, and no such unit is on in this pass",
            "Enable one with the preprocessor instant_id_face_embedding",
        )


def _shapes(header: Header, names: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    return {ours: header.shapes[theirs] for ours, theirs in names.items()}


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
