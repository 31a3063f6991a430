"""Inpaint checkpoints paint after a unit's picture and mask instead of the job's.

Their UNet reads five channels beside the latents: the mask, and the latents of the picture with mid-grey
where it is masked. Source: Rombach et al., arXiv 2112.10752, and runwayml's inpainting checkpoint.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from controlstack.family import Family, Match, Start, register
from controlstack.image import to_tensor
from controlstack.joints import Call, Control
from controlstack.layout import Base

CHANNELS = 5
GREY = 0.5


class InpaintCheckpoint(Family):
    """Acts beside a model or alone, on checkpoints for inpainting. The map is "H W 4", the picture with its
    mask behind the colours."""

    name = "inpaint checkpoint"

    def beside(self, base: Base) -> Match | None:
        return Match(self, None, base) if base.extra == CHANNELS else None

    def begin(self, start: Start) -> Control:
        return Pass(start) if start.map[..., 3].any() else Control()


class Pass(Control):
    """One picture and its mask in a pass."""

    def __init__(self, start: Start) -> None:
        whole = to_tensor(start.map)
        picture, covered = whole[:, :3], (whole[:, 3:] > 0.5).float()
        latents = start.services.encode(torch.lerp(picture, torch.full_like(picture, GREY), covered)).float()
        self._channels = torch.cat([F.max_pool2d(covered, 8).to(latents), latents], dim=1)

    def channels(self, call: Call) -> Tensor:
        return self._channels.to(call.x).expand(len(call.rows), -1, -1, -1)


register(InpaintCheckpoint())
