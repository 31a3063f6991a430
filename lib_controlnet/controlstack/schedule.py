"""How strongly a control acts: the only file that knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from controlstack.joints import Call, Residuals, RowKind, row_index
from controlstack.unit import ControlMode, HiResFixOption

SLACK = 1e-6
"""Sliders and JSON round trips move 0.3 to 0.30000000000000004; a window may not lose a step to that."""


def soft_weight(block: int) -> float:
    """The factor of encoder block `block` (12 is SD1's middle block) where the prompt matters more.

    From lllyasviel/ControlNet, gradio_annotator "guess mode": 0.825 ** (12 - i). SDXL has fewer blocks and
    the field (incumbent and Forge) counts them from the same end, so its middle block gets 0.825 ** 3.
    """
    return float(0.825 ** (12 - block))


SOFT_ENCODER = (0.25, 0.62, 0.825, 1.0)
"""The same idea for the four features of a T2I-Adapter, shallow to deep (incumbent's values)."""


class RegionMask:
    """Where in the picture a control acts: "1 1 H W", 0..1, at any size; stretched to each feature's size."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask.float()
        self.empty = not bool(mask.any())
        self._sized: dict[tuple[int, int], Tensor] = {}

    def like(self, feature: Tensor) -> Tensor:
        """The mask at the size, device and dtype of a "R C h w" feature, as "1 1 h w"."""
        size = (feature.shape[-2], feature.shape[-1])
        sized = self._sized.get(size)
        if sized is None or sized.device != feature.device or sized.dtype != feature.dtype:
            sized = F.interpolate(self._mask, size=size, mode="bilinear", align_corners=False)
            sized = self._sized[size] = sized.to(feature)
        return sized


@dataclass(frozen=True)
class Schedule:
    """When and how strongly one unit acts.

    weight: 0 switches the unit off altogether
    start, end: share of the sampling pass, 0..1; evaluation i of N acts iff i/N >= start and (i+1)/N <= end
    mode: `CONTROL` leaves the rows of the negative prompt alone; `PROMPT` and `CONTROL` weaken the shallow
        blocks
    layers: one factor per skip (encoder order) and one for the middle block; replaces weight and the soft
        factors
    mask: where in the picture
    when: which pass of a hires fix
    soft_in_hires: hard-edged hints are weakened in the high-resolution pass, as in the incumbent (canny,
        mlsd)
    cond_only: models that pool their residuals act on the positive prompt only, in every mode
    """

    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: ControlMode = ControlMode.BALANCED
    layers: tuple[float, ...] | None = None
    mask: RegionMask | None = None
    when: HiResFixOption = HiResFixOption.BOTH
    soft_in_hires: bool = False
    cond_only: bool = False

    def at(self, call: Call) -> Strength | None:
        """The strength at this evaluation, or None where the unit must not act: then no network is called."""
        if not self.acts_in(hires=call.hires) or not self._in_window(call):
            return None
        cond_only = self.cond_only or self.mode is ControlMode.CONTROL
        rows = [i for i, row in enumerate(call.rows) if not cond_only or row.kind is RowKind.COND]
        if not rows:
            return None
        soft = self.mode is not ControlMode.BALANCED or (self.soft_in_hires and call.hires)
        return Strength(rows, len(call.rows), self._factor(soft), self._encoder_factor(soft), self.mask)

    def acts_in(self, *, hires: bool) -> bool:
        """Whether the unit acts at all in this pass; if not, its network need not even be loaded."""
        if self.weight == 0 or (self.mask is not None and self.mask.empty):
            return False
        return self.when is not (HiResFixOption.LOW_RES_ONLY if hires else HiResFixOption.HIGH_RES_ONLY)

    def _in_window(self, call: Call) -> bool:
        begin, end = call.span
        return begin >= self.start - SLACK and end <= self.end + SLACK

    def _factor(self, soft: bool) -> Callable[[int], float]:
        if self.layers is not None:
            return self.layers.__getitem__
        return lambda block: self.weight * (soft_weight(block) if soft else 1.0)

    def _encoder_factor(self, soft: bool) -> Callable[[int], float]:
        if self.layers is not None:
            return self.layers.__getitem__
        return lambda nth: self.weight * (SOFT_ENCODER[nth] if soft else 1.0)


@dataclass(frozen=True)
class Strength:
    """A schedule at one evaluation: which rows, and by how much."""

    rows: Sequence[int]
    of: int
    factor: Callable[[int], float] = field(repr=False)
    encoder_factor: Callable[[int], float] = field(repr=False)
    mask: RegionMask | None = None

    def apply(self, residuals: Residuals) -> Residuals:
        """Scale the residuals of `rows` and spread them over all rows of the call, zeros elsewhere."""
        middle, encoder = residuals.middle, residuals.encoder
        return Residuals(
            tuple(self._scale(skip, self.factor(i)) for i, skip in enumerate(residuals.skips)),
            None if middle is None else self._scale(middle, self.factor(len(residuals.skips))),
            None
            if encoder is None
            else {
                block: self._scale(encoder[block], self.encoder_factor(n))
                for n, block in enumerate(sorted(encoder))
            },
        )

    def _scale(self, feature: Tensor, factor: float) -> Tensor:
        if factor != 1.0:
            feature = feature * factor
        if self.mask is not None:
            feature = feature * self.mask.like(feature)
        if len(self.rows) == self.of:
            return feature
        spread = feature.new_zeros((self.of, *feature.shape[1:]))
        spread[row_index(self.rows)] = feature
        return spread
