"""The noise that the first pass starts from has a trace of the unit's picture in it, as much as the last
timestep of training leaves: the incumbent does so with what LaMa filled in."""

from __future__ import annotations

import torch
from torch import Tensor

from controlstack.family import Family, Start, register
from controlstack.image import to_tensor
from controlstack.joints import Control

LAST = 999.0
"""The timestep with the most noise."""


class StartFromPicture(Family):
    """Acts beside a model or alone. The map is the picture, with or without a mask behind the colours."""

    name = "start from the picture"

    def begin(self, start: Start) -> Control:
        return Control() if start.hires else Pass(start)


class Pass(Control):
    """One picture in a pass."""

    def __init__(self, start: Start) -> None:
        self._latents = start.services.encode(to_tensor(start.map)[:, :3]).float()
        self._last = start.services.prediction(torch.tensor([LAST], device=self._latents.device))

    def start(self, x: Tensor) -> Tensor:
        return self._last.noised(self._latents, x.to(self._latents)) - x.to(self._latents)


register(StartFromPicture())
