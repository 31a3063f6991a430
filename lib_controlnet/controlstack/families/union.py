"""ControlNet-Union and ProMax: one ControlNet for many kinds of hints (xinsir6/ControlNetPlus).

A copied encoder, told by an embedding beside the timestep's which kinds its hints are of. A small transformer
gives each hint a shift of its channels. It attends over the rows of the batch, which all hold the same hint,
and so each token attends to itself alone: that is the value projection, and the shift is decided once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from controlstack import copied_encoder, preprocess
from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Call, Control, Residuals, Services
from controlstack.layout import EncoderLayout
from controlstack.log import log
from controlstack.unit import ControlNetUnionControlType, ControlNetUnit
from controlstack.weights import Header, read_tensors

OWN = ("task_embedding", "control_add_embedding.", "spatial_ch_projs.", "transformer_layes.")
"""Where the names of tensors begin that a ControlNet has not."""


@dataclass(frozen=True)
class Reading:
    """What a file says of itself.

    names: diffusers' name -> the file's
    types: how many types of hints it knows
    """

    names: Mapping[str, str]
    layout: EncoderLayout
    types: int


class UnionFamily(Family):
    """Files with diffusers' names, which are xinsir's own, or with LDM's around the parts of the union."""

    name = "ControlNet-Union"

    def match(self, header: Header) -> Match | None:
        found = copied_encoder.names(header.shapes)
        if found is None:
            return None
        prefix, names = found
        own = {name: f"{prefix}{name}" for name in _behind(prefix, header.shapes) if name.startswith(OWN)}
        if not {"task_embedding", "control_add_embedding.linear_1.weight"} <= own.keys():
            return None
        names = {**names, **own}
        shapes = {ours: header.shapes[theirs] for ours, theirs in names.items()}
        layout = copied_encoder.layout(header, shapes)
        reading = Reading(names, layout, shapes["task_embedding"][0])
        return Match(self, header, layout.base, layout.base.blocks + 1, detail=reading)

    def load(self, match: Match, services: Services) -> nn.Module:
        reading, header = cast(Reading, match.detail), cast(Header, match.header)
        net = copied_encoder.build(reading.layout)
        held = {ours: header.shapes[theirs] for ours, theirs in reading.names.items()}
        with torch.device("meta"):
            own = Types(held)
        expected = {**copied_encoder.shapes_of(net), **copied_encoder.shapes_of(own)}
        copied_encoder.check(header, expected, held)
        read = read_tensors(header, reading.names.values(), dtype=services.dtype, device=services.device)
        weights = {ours: read[theirs] for ours, theirs in reading.names.items()}
        own.load_state_dict({n: t for n, t in weights.items() if n.startswith(OWN)}, assign=True)
        rest = {name: tensor for name, tensor in weights.items() if not name.startswith(OWN)}
        return Network(net, rest, own.requires_grad_(False).eval())

    def begin(self, start: Start) -> Control:
        reading, header = cast(Reading, start.match.detail), cast(Header, start.match.header)
        kind = _type(start.unit)
        if kind is None:
            log.warning("%s is not told what its hint shows: union_control_type", header.path.name)
        elif kind >= reading.types:
            known = list(ControlNetUnionControlType)[: reading.types]
            raise ControlError(
                f"The model {header.path.name} does not know hints of type {_label(kind)}",
                f"It was trained on {', '.join(map(str, known))}",
                "Choose one of these types, or the ProMax model",
            )
        network = cast(Network, start.model)
        embedded = network.embed(start.hint)
        return Pass(network, [Condition(embedded, kind)])


@dataclass(frozen=True)
class Condition:
    """A hint, embedded, "1 C h w", and the number of its type. Only beside others it has a weight here."""

    embedded: Tensor
    type: int | None
    weight: float = 1.0


class Pass(Control):
    """One hint, or several of different types, in one sampling pass."""

    def __init__(self, network: Network, conditions: Sequence[Condition]) -> None:
        self._network, self._conditions = network, conditions
        with torch.no_grad():
            self._labels = network.types.labels({one.type for one in conditions})
            self._hint = network.types.fuse(conditions)

    def fuses(self, other: Control) -> bool:
        return (
            isinstance(other, Pass)
            and other._network is self._network
            and all(one.type is not None for one in (*self._conditions, *other._conditions))
        )

    def together(self, parts: Sequence[tuple[Control, float]]) -> Control:
        weighed = [
            replace(one, weight=weight) for part, weight in parts for one in cast(Pass, part)._conditions
        ]
        return Pass(self._network, weighed)

    def residuals(self, call: Call) -> Residuals:
        return self._network.evaluate(call, self._hint, self._labels)


class Network(copied_encoder.Network):
    """The copied encoder with the parts that know of types."""

    def __init__(self, net: nn.Module, weights: Mapping[str, Tensor], types: Types) -> None:
        super().__init__(net, weights)
        self.types = types
        self.net.class_embedding = nn.Identity()  # what diffusers adds to the embedding of the timestep


class Types(nn.Module):
    """What a Union has beside the copied encoder, under the names of its file."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        count, width = shapes["task_embedding"]
        self.task_embedding = nn.Parameter(torch.empty(count, width))
        wide, deep = shapes["control_add_embedding.linear_1.weight"]
        self.control_add_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(deep, wide), "linear_2": nn.Linear(wide, wide)}
        )
        layers = sum(
            name.startswith("transformer_layes.") and name.endswith("ln_1.weight") for name in shapes
        )
        self.transformer_layes = nn.ModuleList(_Layer(width) for _ in range(layers))
        self.spatial_ch_projs = nn.Linear(width, shapes["spatial_ch_projs.weight"][0])

    def labels(self, types: set[int | None]) -> Tensor:
        """The embedding "1 A" of which types there are: the sinusoids of 1 and of 0, as of a timestep."""
        from diffusers.models.embeddings import Timesteps

        first, second = self.control_add_embedding.values()
        weight = cast(Tensor, first.weight)
        count = len(self.task_embedding)
        there = torch.tensor([float(kind in types) for kind in range(count)], device=weight.device)
        sinusoids = Timesteps(weight.shape[1] // count, flip_sin_to_cos=True, downscale_freq_shift=0)(there)
        return cast(Tensor, second(F.silu(first(sinusoids.reshape(1, -1).to(weight)))))

    def fuse(self, conditions: Sequence[Condition]) -> Tensor:
        """What the copied encoder reads beside the latents, "1 C h w". Weights act where they do in
        diffusers' `ControlNetUnionModel`."""
        return torch.stack([self._shifted(one) * one.weight for one in conditions]).sum(0)

    def _shifted(self, condition: Condition) -> Tensor:
        if condition.type is None:
            return condition.embedded
        token = (condition.embedded.mean((2, 3)) + self.task_embedding[condition.type]) * condition.weight
        for layer in self.transformer_layes:
            token = layer(token)
        return cast(Tensor, condition.embedded + self.spatial_ch_projs(token)[..., None, None])


class _Layer(nn.Module):
    """A residual attention block of CLIP, of which a lone token sees the value projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 1)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, token: Tensor) -> Tensor:
        weight, bias = (part.chunk(3)[2] for part in (self.attn.in_proj_weight, self.attn.in_proj_bias))
        token = token + self.attn.out_proj(F.linear(self.ln_1(token), weight, bias))
        h = self.mlp["c_fc"](self.ln_2(token))
        return cast(Tensor, token + self.mlp["c_proj"](h * torch.sigmoid(1.702 * h)))  # QuickGELU


def _type(unit: ControlNetUnit) -> int | None:
    """The number of the unit's type, or of the first that its preprocessor's maps are known to be of."""
    types = list(ControlNetUnionControlType)
    given = [unit.union_control_type, *preprocess.find(unit.module).control_types]
    for name in given:
        try:
            kind = ControlNetUnionControlType(name)
        except ValueError:
            continue
        if kind is not ControlNetUnionControlType.UNKNOWN:
            return types.index(kind)
    return None


def _label(kind: int) -> str:
    return str(list(ControlNetUnionControlType)[kind])


def _behind(prefix: str, names: Mapping[str, object]) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


register(UnionFamily())
