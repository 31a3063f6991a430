"""How strongly a control acts: the only file that knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from controlstack.curve import Curve
from controlstack.errors import ControlError
from controlstack.joints import Call, Residuals, Row, RowKind, row_index
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

    def over_tokens(self, tokens: Tensor, cells: tuple[int, int]) -> Tensor:
        """The mask for the tokens "R N C" of an attention layer, as "1 N 1".

        cells: height and width of the latents. Each level of the UNet halves them, rounding up.
        """
        height, width = cells
        while height * width > tokens.shape[1]:
            height, width = (height + 1) // 2, (width + 1) // 2
        if height * width != tokens.shape[1]:
            raise ControlError(
                "Its region mask cannot be laid over the attention layers",
                f"Another extension cut their {cells[1]}x{cells[0]} cells into {tokens.shape[1]} tokens",
                "Switch that extension off, or remove the region mask",
            )
        return self.like(tokens.new_empty(1, 1, height, width)).flatten(1)[..., None]


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
    curve: multiplies all the rest, by how far the pass is: the first evaluation is at 0, the last at 1
    negative: multiplies the rows of the negative prompt. `CONTROL` is 0 here and soft factors
    batch: a factor for each picture of the batch, in turns
    in_hires: what holds in the high-resolution pass instead of all this
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
    curve: Curve | None = None
    negative: float = 1.0
    batch: tuple[float, ...] = (1.0,)
    in_hires: Schedule | None = None

    def at(self, call: Call) -> Strength | None:
        """The strength at this evaluation, or None where the unit must not act: then no network is called."""
        if call.hires and self.in_hires:
            return self.in_hires.at(call)
        if not self.acts_in(hires=call.hires) or not self._in_window(call):
            return None
        level = 1.0 if self.curve is None else self.curve.at(_share(call))
        factors = [self._of_row(row) for row in call.rows]
        rows = [i for i, factor in enumerate(factors) if factor]
        if not rows or not level:
            return None
        return Strength(
            rows,
            len(call.rows),
            self.weight,
            soft=self.mode is not ControlMode.BALANCED or (self.soft_in_hires and call.hires),
            layers=self.layers,
            mask=self.mask,
            cells=(call.x.shape[-2], call.x.shape[-1]),
            by_row=tuple(level * factors[i] for i in rows),
        )

    def acts_in(self, *, hires: bool) -> bool:
        """Whether the unit acts at all in this pass; if not, its network need not even be loaded."""
        if hires and self.in_hires:
            return self.in_hires.acts_in(hires=hires)
        if self.weight == 0 or (self.mask is not None and self.mask.empty):
            return False
        if not any(self.batch) or (self.curve is not None and self.curve.never):
            return False
        return self.when is not (HiResFixOption.LOW_RES_ONLY if hires else HiResFixOption.HIGH_RES_ONLY)

    def acts_on(self, image: int) -> bool:
        """Whether the unit acts on this picture of the batch."""
        return bool(self.batch[image % len(self.batch)])

    @property
    def acts_from_start(self) -> bool:
        """Whether the unit acts where a pass begins."""
        return self.start <= SLACK and (self.curve is None or self.curve.at(0) != 0)

    def at_start(self, change: Tensor) -> Tensor:
        """A change "B 4 h w" of the noise that a pass starts from, in the pictures and places it acts on."""
        acts = change.new_tensor([float(self.acts_on(image)) for image in range(len(change))])
        change = change * acts[:, None, None, None]
        return change if self.mask is None else change * self.mask.like(change)

    def within(self, picture: Tensor, changed: Tensor) -> Tensor:
        """A finished picture "3 H W", changed where the unit acts."""
        if self.mask is None:
            return changed
        return torch.lerp(picture, changed, self.mask.like(picture[None])[0])

    def _of_row(self, row: Row) -> float:
        factor = self.batch[row.image % len(self.batch)]
        if row.kind is RowKind.COND:
            return factor
        spared = self.cond_only or self.mode is ControlMode.CONTROL
        return 0.0 if spared else factor * self.negative

    def _in_window(self, call: Call) -> bool:
        begin, end = call.span
        return begin >= self.start - SLACK and end <= self.end + SLACK


def _share(call: Call) -> float:
    """How far the pass is, 0 at its first evaluation and 1 at its last."""
    begin, end = call.span
    return begin / (1 - (end - begin)) if end - begin < 1 else 0.0


@dataclass(frozen=True)
class Strength:
    """A schedule at one evaluation: which rows, and by how much.

    rows: of the call's `of` rows
    weight: of every layer, unless `layers` has one for each
    soft: residuals of shallow blocks are weakened
    cells: height and width of the latents
    by_row: a further factor for each of `rows`
    """

    rows: Sequence[int]
    of: int
    weight: float
    soft: bool
    layers: tuple[float, ...] | None = None
    mask: RegionMask | None = None
    cells: tuple[int, int] = (0, 0)
    by_row: tuple[float, ...] = ()

    def apply(self, residuals: Residuals) -> Residuals:
        """Scale the residuals of `rows` and spread them over all rows of the call, zeros elsewhere."""
        skips, middle, encoder = residuals.skips, residuals.middle, residuals.encoder or {}
        soft = soft_weight if skips else SOFT_ENCODER.__getitem__
        return Residuals(
            tuple(self.change(skip, self._factor(i, soft_weight)) for i, skip in enumerate(skips)),
            None if middle is None else self.change(middle, self._factor(len(skips or encoder), soft)),
            {
                block: self.change(encoder[block], self._factor(n, SOFT_ENCODER.__getitem__))
                for n, block in enumerate(sorted(encoder))
            }
            or None,
        )

    def change(self, change: Tensor, factor: float, *, spatial: bool = True) -> Tensor:
        """Scale a change of `rows`, features "r C h w" or tokens "r N C", and spread it over all rows.

        spatial: whether the tokens are places in the picture, where a region mask can tell them apart
        """
        alike = len(set(self.by_row)) < 2
        if alike and self.by_row:
            factor *= self.by_row[0]
        if factor != 1.0:
            change = change * factor
        if not alike:
            change = change * change.new_tensor(self.by_row).reshape(-1, *[1] * (change.ndim - 1))
        if self.mask is not None and change.ndim == 4:
            change = change * self.mask.like(change)
        elif self.mask is not None and change.ndim == 3 and spatial:
            change = change * self.mask.over_tokens(change, self.cells)
        if len(self.rows) == self.of:
            return change
        spread = change.new_zeros((self.of, *change.shape[1:]))
        spread[row_index(self.rows)] = change
        return spread

    def factor(self, layer: Callable[[], int]) -> float:
        """The factor at a joint other than the residuals; `layer` counts it if weights are per layer."""
        return self.weight if self.layers is None else self.layers[layer()]

    def _factor(self, layer: int, soft: Callable[[int], float]) -> float:
        if self.layers is not None:
            return self.layers[layer]
        return self.weight * (soft(layer) if self.soft else 1.0)
