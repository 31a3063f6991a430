"""Revision: SDXL paints after what CLIP knows of pictures, in place of what it knows of the whole prompt.

CLIP-G's embedding of the picture, times the weight, takes the place of the pooled prompt; those of several
units are summed, and the rows of the negative prompt get zeros. Noise augmentation is DDPM's at a share of
1000 timesteps (Ho et al., arXiv 2006.11239), with LDM's default variances. All as in the incumbent.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import ClassVar, cast

import torch
from torch import Tensor

from controlstack.embeddings import POOLED
from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Call, Control, RowKind
from controlstack.layout import Base

VARIANCES = (1e-4, 2e-2)
"""Of the noise at the first and the last timestep; their roots go straight."""
TIMESTEPS = 1000


class Revision(Family):
    """Acts without a file, on SDXL. `threshold_a` is the noise augmentation, 0..1.

    silent: whether the UNet sees zeros in place of the prompt
    """

    name = "revision"
    silent: ClassVar[bool] = False

    def beside(self, base: Base) -> Match:
        if base.vector is None:
            raise ControlError(
                "Revision cannot act on this checkpoint",
                f"It changes SDXL's vector of the prompt, and the checkpoint is {base.name}",
                "Choose an SDXL checkpoint, or disable the unit",
            )
        return Match(self, None, base, own_weight=True)

    def begin(self, start: Start) -> Control:
        seen = torch.stack([embedding[POOLED] for embedding in start.embeddings]).mean(0).float()
        level = min(int(start.unit.threshold_a * TIMESTEPS), TIMESTEPS - 1)
        seen = noised(seen, level, start.seed).to(start.services.device) * start.unit.weight
        return Pass(seen, silent=self.silent or start.unprompted)


class WithoutPrompt(Revision):
    """The prompt is not read."""

    name = "revision without the prompt"
    silent = True


class Pass(Control):
    """Pictures in a pass. embedding: "1 D", to take the place of the first D channels of the vector"""

    def __init__(self, embedding: Tensor, *, silent: bool) -> None:
        self._embedding, self._silent = embedding, silent

    def fuses(self, other: Control) -> bool:
        return isinstance(other, Pass)

    def together(self, parts: Sequence[tuple[Control, float]]) -> Control:
        alike = [cast(Pass, part) for part, _ in parts]
        whole = torch.stack([part._embedding for part in alike]).sum(0)
        return Pass(whole, silent=any(part._silent for part in alike))

    def vector(self, call: Call) -> Tensor:
        vector = cast(Tensor, call.y).float()
        change = torch.zeros_like(vector)
        for row, kind in enumerate(row.kind for row in call.rows):
            wanted = self._embedding[0] if kind is RowKind.COND else torch.zeros_like(self._embedding[0])
            change[row, : len(wanted)] = wanted - vector[row, : len(wanted)]
        return change

    def prompt(self, call: Call) -> Tensor | None:
        return -call.context if self._silent else None


def noised(embedding: Tensor, level: int, seed: int) -> Tensor:
    """An embedding "1 D" with the noise of a timestep 0..999, drawn from the job's seed."""
    first, last = (variance**0.5 for variance in VARIANCES)
    variances = torch.linspace(first, last, TIMESTEPS, dtype=torch.float64) ** 2
    kept: float = (1 - variances).cumprod(0)[level].item()
    noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed((seed << 10) + level))
    return embedding * sqrt(kept) + noise * sqrt(1 - kept)


register(Revision())
register(WithoutPrompt())
