"""Keep unmasked: what the unit's mask does not cover stays as it is, in the latents and in the picture.

At each evaluation the predicted x0 is the picture's own outside the mask; the finished picture gets its own
pixels back there, with a soft edge. As in the incumbent's inpaint_only.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from controlstack.family import Family, Start, register
from controlstack.image import Array, to_tensor
from controlstack.joints import Call, Control

EDGE = 7
"""px by which the mask grows, then over which it is blurred, in the finished picture (the incumbent's)."""


class KeepUnmasked(Family):
    """Acts beside a model. The map is "H W 4", the picture with its mask behind the colours."""

    name = "keep unmasked"

    def begin(self, start: Start) -> Control:
        return Pass(start)


class Pass(Control):
    """One picture and its mask in a pass."""

    def __init__(self, start: Start) -> None:
        whole = to_tensor(start.map)
        self._own, covered = whole[0, :3], (whole[:, 3:] > 0.5).float()
        self._latents = start.services.encode(whole[:, :3]).float()
        # A cell is repainted if the mask reaches it, or a pixel beside it.
        self._kept = 1 - F.max_pool2d(covered, kernel_size=10, stride=8, padding=1)
        self._scale = 1 / max(start.unit.weight, 1.0)  # weights beyond 1 restore no more than all
        self._blend = _soft(start.map[..., 3])

    def denoised(self, x0: Tensor, call: Call) -> Tensor:
        return (self._latents.to(x0) - x0) * self._kept.to(x0) * self._scale

    def picture(self, picture: Tensor, index: int) -> Tensor | None:
        if picture.shape != self._own.shape:
            return None
        blend = self._blend.to(picture)
        return blend * picture + (1 - blend) * self._own.to(picture)


def _soft(mask: Array) -> Tensor:
    """A mask "H W", 255 where to repaint, grown and blurred, as "H W" of 0..1."""
    grown = cv2.dilate(mask, np.ones((EDGE, EDGE), np.uint8))
    return torch.from_numpy(cv2.blur(grown, (EDGE, EDGE)).astype(np.float32)) / 255


register(KeepUnmasked())
