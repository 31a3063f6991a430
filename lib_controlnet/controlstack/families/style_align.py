"""StyleAlign: the pictures of a batch look at each other, so that they come out in one style (Hertz et al.,
arXiv 2312.02133, without its AdaIN, as in the incumbent).

In every self-attention layer each picture's queries see the keys and values of the whole batch; rows of the
positive and of the negative prompt, and of each AND-prompt, keep to themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from controlstack.family import Family, Match, Start, register
from controlstack.joints import Attention, Call, Control, RowKind, Site
from controlstack.layout import Base


class StyleAlign(Family):
    """Acts without a file and without a picture, on every checkpoint."""

    name = "style align"

    def beside(self, base: Base) -> Match:
        return Match(self, None, base)

    def begin(self, start: Start) -> Control:
        return Pass()


class Pass(Control):
    """All batches of a pass: nothing is kept between evaluations."""

    def attended(self, site: Site, attention: Attention, call: Call) -> Tensor | None:
        if site.cross:
            return None
        alike: dict[tuple[RowKind, int], list[int]] = {}
        for nth, row in enumerate(call.rows):
            alike.setdefault((row.kind, row.prompt), []).append(nth)
        change = torch.zeros_like(attention.out)
        for rows in alike.values():
            own = attention.take(rows)
            shared = own.over(*(tensor.flatten(0, 1)[None] for tensor in (own.k, own.v)))
            change[rows] = shared - own.out
        return change


register(StyleAlign())
