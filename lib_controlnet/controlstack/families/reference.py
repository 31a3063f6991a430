"""Reference: the picture takes after another one, without a model.

At each evaluation the UNet runs on the reference's latents too, as noisy as the picture's, with the controls
off. Then self-attention looks at what the same layer had there (reference_only), or the features of a block
take over the mean and the spread that they had there (AdaIN: Huang and Belongie, arXiv 1703.06868). Both, and
all numbers, as in the incumbent.

The weight says how many layers take part, the widest first. Units that differ in nothing else of their
strength are one to the UNet, with all their references side by side in one softmax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, cast

import torch
from torch import Tensor

from controlstack.family import Family, Match, Start, register
from controlstack.image import to_tensor
from controlstack.joints import Attention, Block, Call, Control, RowKind, Services, Site
from controlstack.layout import Base
from controlstack.unit import ControlMode

INPAINT_CHANNELS = 5
"""Which an inpaint checkpoint reads beside the latents: mask, and latents of what is not masked."""
LEAST_VARIANCE = 1e-6
"""Of a feature, before it is divided by."""
ENCODER, DECODER = (4, 5, 7, 8, 10, 11), range(8)
ENCODER_XL, DECODER_XL = (4, 5, 7, 8), range(6)
"""The blocks whose features AdaIN changes; the middle one too."""


def thresholds(base: Base) -> Mapping[Block, float]:
    """The weights that units must exceed for AdaIN to act in a block: the deeper, the lower."""
    xl = base.vector is not None
    encoder, decoder = (ENCODER_XL, DECODER_XL) if xl else (ENCODER, DECODER)
    return {
        Block("middle", 0): 0.0,
        **{Block("input", nth): 2 * (1 - j / len(encoder)) for j, nth in enumerate(encoder)},
        **{Block("output", nth): 2 * j / len(decoder) for j, nth in enumerate(decoder)},
    }


class Reference(Family):
    """Acts without a file, on every checkpoint. The map is the reference.

    attends, normalises: which of the two ways it goes
    """

    attends: ClassVar[bool] = True
    normalises: ClassVar[bool] = True

    def beside(self, base: Base) -> Match:
        return Match(self, None, base, own_weight=True)

    def begin(self, start: Start) -> Control:
        unit, base = start.unit, start.match.base
        fidelity = min(max(unit.threshold_a, 0.0), 1.0)
        if start.hires or unit.control_mode is ControlMode.PROMPT:
            fidelity = 0.0
        seen = Seen(
            latents=start.services.encode(to_tensor(start.map)).float(),
            services=start.services,
            seed=start.seed,
            weight=unit.weight,
            fidelity=fidelity if base.vector is None else fidelity**3,
            attends=self.attends,
            thresholds=thresholds(base) if self.normalises else {},
            inpaints=base.extra == INPAINT_CHANNELS,
        )
        return Pass([seen])


class ByAttention(Reference):
    """Self-attention looks at the reference too."""

    name = "reference by attention"
    normalises = False


class ByStatistics(Reference):
    """Features take over the reference's mean and spread."""

    name = "reference by statistics"
    attends = False


class ByBoth(Reference):
    """Both."""

    name = "reference by both"


@dataclass(frozen=True)
class Seen:
    """One reference in a pass.

    latents: "1 4 h w"
    weight: the unit's, 0..2
    fidelity: how much the rows of the negative prompt stay as they are, 0..1: the more, the more guidance
        points at the reference's style
    thresholds: of the blocks in which it normalises
    inpaints: whether the UNet reads a picture with a mask, too: the reference, with nothing masked
    """

    latents: Tensor
    services: Services
    seed: int
    weight: float
    fidelity: float
    attends: bool
    thresholds: Mapping[Block, float]
    inpaints: bool = False

    def noised(self, call: Call) -> Tensor:
        """The latents with the noise of each row's timestep, "R 4|9 h w".

        Noise is drawn anew for each timestep, from it and the job's seed alone: rows that are evaluated
        apart see the same.
        """
        levels = [round(t) for t in call.t.tolist()]
        drawn = {t: torch.randn(self.latents.shape, generator=self._generator(t)) for t in set(levels)}
        noise = torch.cat([drawn[t] for t in levels]).to(call.x.device)
        latents = self.latents.to(noise)
        noisy = self.services.prediction(call.t).noised(latents, noise)
        if self.inpaints:
            noisy = torch.cat([noisy, torch.zeros_like(noisy[:, :1]), latents.expand_as(noisy)], dim=1)
        return noisy.to(call.x)

    def _generator(self, t: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed << 10) + t)


class Pass(Control):
    """References that act as one in a pass. What they show is heard anew at each evaluation."""

    def __init__(self, references: Sequence[Seen]) -> None:
        self._references = references
        self._attending = [nth for nth, one in enumerate(references) if one.attends]
        self._negative: Tensor | None = None
        self._widths: dict[Site, int] = {}
        self._tokens: dict[Site, list[tuple[Tensor, Tensor]]] = {}
        self._features: dict[Block, list[tuple[Seen, tuple[Tensor, Tensor]]]] = {}

    def fuses(self, other: Control) -> bool:
        return isinstance(other, Pass)

    def together(self, parts: Sequence[tuple[Control, float]]) -> Control:
        return Pass([one for part, _ in parts for one in cast(Pass, part)._references])

    def shadow(self, call: Call) -> Tensor:
        negative = [row.kind is not RowKind.COND for row in call.rows]
        self._negative = torch.tensor(negative, device=call.x.device) if any(negative) else None
        return torch.cat([one.noised(call) for one in self._references])

    def overheard(self, site: Site, attention: Attention) -> None:
        if site.cross or not self._attending:
            return
        self._widths[site] = attention.q.shape[-1]
        keys, values = (tensor.chunk(len(self._references)) for tensor in (attention.k, attention.v))
        self._tokens[site] = [(keys[nth], values[nth]) for nth in self._attending]

    def overheard_block(self, block: Block, h: Tensor) -> None:
        parts = zip(self._references, h.chunk(len(self._references)), strict=True)
        self._features[block] = [
            (one, _moments(own)) for one, own in parts if one.weight > one.thresholds.get(block, one.weight)
        ]

    def attended(self, site: Site, attention: Attention, call: Call) -> Tensor | None:
        if site not in self._tokens:
            return None
        attending = [self._references[nth] for nth in self._attending]
        heard = [
            (one, pair)
            for one, pair in zip(attending, self._tokens[site], strict=True)
            if one.weight > self._ranks[site]
        ]
        if not heard:
            return None
        keys = torch.cat([attention.k, *(k for _, (k, _) in heard)], dim=1)
        values = torch.cat([attention.v, *(v for _, (_, v) in heard)], dim=1)
        return self._spared(attention.over(keys, values) - attention.out, [one for one, _ in heard])

    def leaving(self, block: Block, h: Tensor, call: Call) -> Tensor | None:
        heard = self._features.get(block)
        if not heard:
            return None
        moments = zip(*(pair for _, pair in heard), strict=True)
        variance, mean = (torch.stack(part).mean(0) for part in moments)
        own_variance, own_mean = _moments(h)
        spread, own_spread = (v.clamp(min=LEAST_VARIANCE).sqrt() for v in (variance, own_variance))
        change = (h - own_mean) / own_spread * spread + mean - h
        return self._spared(change, [one for one, _ in heard])

    @cached_property
    def _ranks(self) -> Mapping[Site, float]:
        """The weights that references must exceed to be looked at: i/N for the ith widest of N layers."""
        widest = sorted(self._widths, key=lambda site: -self._widths[site])
        return {site: nth / len(widest) for nth, site in enumerate(widest)}

    def _spared(self, change: Tensor, heard: Sequence[Seen]) -> Tensor:
        """Less of a change "R …" for the rows of the negative prompt, by the mean fidelity of those heard."""
        fidelity = sum(one.fidelity for one in heard) / len(heard)
        if self._negative is None or not fidelity:
            return change
        return change * (1 - fidelity * self._negative.to(change)).reshape(-1, *[1] * (change.ndim - 1))


def _moments(h: Tensor) -> tuple[Tensor, Tensor]:
    """The variance and the mean of features "R C h w" over the picture, each "R C 1 1"."""
    return torch.var_mean(h, dim=(2, 3), keepdim=True, correction=0)


for kind in (ByAttention, ByStatistics, ByBoth):
    register(kind())
