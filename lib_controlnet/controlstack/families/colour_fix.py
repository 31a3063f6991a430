"""Colour fix: at each evaluation the result keeps the unit's picture in its coarse colours.

What the UNet predicts is x0; the change is blur(picture) - blur(x0), over 2k + 1 latent cells each way. With
sharpness, the rows of the negative prompt see a softer x0. Both as in the incumbent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from controlstack.family import Family, Start, register
from controlstack.image import to_tensor
from controlstack.joints import Call, Control, RowKind

SHARPNESS = 0.01
"""A share of softness for each point of the slider."""


class ColourFix(Family):
    """Acts beside a model, on the latents. `threshold_a` is k, doubled in the high-resolution pass."""

    name = "colour fix"

    def begin(self, start: Start) -> Control:
        return Pass(start)


class Pass(Control):
    """One picture's coarse colours in a pass."""

    def __init__(self, start: Start) -> None:
        self._reach = int(start.unit.threshold_a) * (2 if start.hires else 1)
        self._softness = start.unit.threshold_b * SHARPNESS
        # A fix of more than all is none: the change is scaled by a weight that may be 2.
        self._scale = 1 / max(start.unit.weight, 1.0)
        self._colours = _blurred(start.services.encode(to_tensor(start.map)[:, :3]).float(), self._reach)

    def denoised(self, x0: Tensor, call: Call) -> Tensor:
        coarse = _blurred(x0, self._reach)
        asked = [float(row.kind is not RowKind.COND) for row in call.rows]
        softness = self._softness * torch.tensor(asked, device=x0.device)[:, None, None, None]
        fixed = x0 - coarse + self._colours.to(x0)
        fixed = softness * _blurred(fixed, self._reach) + (1 - softness) * fixed
        return (fixed - x0) * self._scale


def _blurred(x: Tensor, reach: int) -> Tensor:
    """The mean over 2 · reach + 1 cells each way, edges continued."""
    return F.avg_pool2d(F.pad(x, (reach,) * 4, mode="replicate"), 2 * reach + 1, stride=1)


register(ColourFix())
