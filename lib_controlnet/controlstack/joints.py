"""Where a control may touch a UNet, and what passes through there.

A host turns its own UNet call into a `Call`; a control answers with tensors and never adds them to
anything. Index 0 is the first encoder block everywhere. `docs/adr/0002-joints.md` sketches all six joints
on every kind of UNet; the types here are those that a family already uses.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import zip_longest
from typing import Protocol, cast

import torch
from torch import Tensor


class RowKind(Enum):
    """What the prompt of a batch row asks for."""

    COND = "cond"
    UNCOND = "uncond"
    UNCOND_IMAGE = "uncond with the picture kept"
    """InstructPix2Pix evaluates a third row: the negative prompt with the input picture."""


@dataclass(frozen=True)
class Row:
    """One row of a UNet batch: `image` is the picture of the batch, `prompt` the index of its AND-prompt."""

    image: int
    kind: RowKind = RowKind.COND
    prompt: int = 0


@dataclass(frozen=True)
class Call:
    """One evaluation of the UNet, its rows in the host's own order.

    x: "R 4 h w", latent cells, scaled as the UNet sees it, without the extra channels of inpaint or depth
        checkpoints
    t: "R", timesteps 0..999, fractional with k-diffusion samplers
    context: "R L D", the prompt tokens
    y: "R A", the vector conditioning of SDXL (pooled prompt, then the sinusoidal sizes), else None
    span: the evaluation's share of its sampling pass, (i/N, (i+1)/N) for evaluation i of N. Second-order
        samplers evaluate twice in a step and both count. An adaptive sampler knows no N: there both ends are
        how far the noise level has come down, 0..1
    hires: whether this is the high-resolution pass of hires fix
    """

    x: Tensor
    t: Tensor
    context: Tensor
    y: Tensor | None
    rows: tuple[Row, ...]
    span: tuple[float, float] = (0.0, 1.0)
    hires: bool = False

    def take(self, index: Sequence[int]) -> Call:
        """The same evaluation with only these rows; itself when that is all of them."""
        if len(index) == len(self.rows):
            return self
        at = row_index(index)
        return replace(
            self,
            x=self.x[at],
            t=self.t[at],
            context=self.context[at],
            y=None if self.y is None else self.y[at],
            rows=tuple(self.rows[i] for i in index),
        )


def row_index(index: Sequence[int]) -> slice | list[int]:
    """Some rows as an index into a tensor: a slice where they lie together, which costs a GPU no waiting."""
    together = list(index) == list(range(index[0], index[-1] + 1))
    return slice(index[0], index[-1] + 1) if together else list(index)


@dataclass(frozen=True)
class Residuals:
    """What controls add to the UNet's encoder features.

    skips: "R C h w" each, added to what the decoder receives from encoder block i
    middle: "R C h w", added to the output of the middle block
    encoder: block index -> "R C h w", added to the output of that encoder block, where the next block sees
        it too
    """

    skips: tuple[Tensor, ...] = ()
    middle: Tensor | None = None
    encoder: Mapping[int, Tensor] | None = None

    def __add__(self, other: Residuals) -> Residuals:
        """The sum of two controls of the same UNet, as new tensors: a control may hand out cached ones."""
        ours, theirs = self.encoder or {}, other.encoder or {}
        encoder = {block: _sum(ours.get(block), theirs.get(block)) for block in {*ours, *theirs}}
        return Residuals(
            tuple(_sum(*pair) for pair in zip_longest(self.skips, other.skips)),
            None if self.middle is other.middle is None else _sum(self.middle, other.middle),
            encoder or None,
        )


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor:
    """a + b, where one of them may be missing."""
    return cast(Tensor, b if a is None else a if b is None else a + b)


class Services(Protocol):
    """What a host offers to families while a job runs."""

    @property
    def device(self) -> torch.device:
        """Where the UNet runs."""

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in."""

    @property
    def checkpoint(self) -> Hashable:
        """Which weights the live UNet has: another value when it gets others."""

    def weight(self, name: str) -> Tensor | None:
        """A dequantised tensor of the live UNet by its name in diffusers' layout, None where it has no such
        tensor."""
