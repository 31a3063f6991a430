"""Tokens of pictures in prompt attention: what IP-Adapter and its relatives have in common.

Their files make keys and values of such tokens for every layer of the UNet that attends to the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from controlstack.errors import ControlError
from controlstack.joints import Block, Call, Control, RowKind, Services, Site
from controlstack.layout import ANY, Base

_FILED, _IN_TURN = ("input", "output", "middle"), ("input", "middle", "output")
"""How files count the parts of a UNet, and how they run and per-layer weights count them."""


@dataclass(frozen=True)
class Layers:
    """Which UNet a file was made for.

    keys: its tensors that make keys, in its own order: those of the encoder, the decoder, the middle
    weights: how many per-layer weights there are, one for each block that attends
    """

    keys: tuple[str, ...]
    base: Base
    weights: int


def layers(shapes: Mapping[str, tuple[int, ...]], key: re.Pattern[str]) -> Layers | None:
    """The layers of a file whose tensors for keys have names of this pattern, with the layer's number in it.
    None if it has none."""
    found = sorted((int(match[1]), name) for name in shapes if (match := key.fullmatch(name)))
    if not found:
        return None
    names = tuple(name for _, name in found)
    width, context = shapes[names[0]]
    # SD1 attends once in each block and in all levels but the last, SDXL not in its first level.
    if len(names) > 16:
        return Layers(names, Base(width // 2, context, ANY, blocks=9), 11)
    return Layers(names, Base(width, context, None, blocks=12), 16)


class Network(nn.Module):
    """The projector, and what makes keys and values of its tokens at each attention layer."""

    def __init__(self, projector: nn.Module, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        super().__init__()
        self.projector = projector
        self.keys = nn.ParameterList(nn.Parameter(key, requires_grad=False) for key in keys)
        self.values = nn.ParameterList(nn.Parameter(value, requires_grad=False) for value in values)


class TokensPass(Control):
    """The tokens' keys and values at every layer, made once in a pass.

    tokens: "2 N D", for the rows of the negative prompt and for those of the prompt
    """

    def __init__(self, network: Network, tokens: Tensor, services: Services) -> None:
        sites = [site for site in services.sites if site.cross]
        sites.sort(key=lambda site: (_FILED.index(site.block.part), site))
        if len(sites) != len(network.keys):
            raise ControlError(
                "The model does not fit the checkpoint",
                f"It was made for {len(network.keys)} attention layers, and there are {len(sites)}",
                "Choose a pair made for each other",
            )
        blocks = {site.block for site in sites}
        in_turn = sorted(blocks, key=lambda block: (_IN_TURN.index(block.part), block.nth))
        self._layers = {block: nth for nth, block in enumerate(in_turn)}
        self._picked: dict[tuple[Site, tuple[int, ...]], tuple[Tensor, Tensor]] = {}
        with torch.no_grad():
            self._seen = {
                site: (tokens @ key.T, tokens @ value.T)
                for site, key, value in zip(sites, network.keys, network.values, strict=True)
            }

    def keys_values(self, site: Site, call: Call) -> tuple[Tensor, Tensor]:
        """Keys and values "R N C" for these rows, picked once in a pass: picking makes a GPU wait."""
        rows = of_rows(call)
        if (site, rows) not in self._picked:
            k, v = self._seen[site]
            self._picked[site, rows] = k[list(rows)], v[list(rows)]
        return self._picked[site, rows]

    def layer(self, place: Site | Block) -> int:
        return self._layers[cast(Site, place).block]


def of_rows(call: Call) -> tuple[int, ...]:
    """For each row which of the tokens it sees: 1 for those of the prompt."""
    return tuple(int(row.kind is RowKind.COND) for row in call.rows)
