"""Recolour: the result keeps the light of the unit's picture and only its own colours.

The map's grey takes the place of L* in CIE L*a*b*, or of V in HSV, in 8 bits as in the incumbent.
"""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor

from controlstack.family import Family, Start, register
from controlstack.image import Array
from controlstack.joints import Control


class Recolour(Family):
    """Acts beside a model, or alone, on the finished picture.

    channel: the one that holds the light once `there` has converted RGB; `back` returns to it
    """

    channel: ClassVar[int]
    there: ClassVar[int]
    back: ClassVar[int]

    def begin(self, start: Start) -> Control:
        return Pass(self, start.map)


class ByLightness(Recolour):
    """L* of CIE L*a*b*."""

    name = "recolour by lightness"
    channel, there, back = 0, cv2.COLOR_RGB2LAB, cv2.COLOR_LAB2RGB


class ByIntensity(Recolour):
    """V of HSV."""

    name = "recolour by intensity"
    channel, there, back = 2, cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB


class Pass(Control):
    """The picture of a pass with the light of the map. It has the map's size, or is left alone."""

    def __init__(self, family: Recolour, light: Array) -> None:
        self._family, self._light = family, light[..., 0]

    def picture(self, picture: Tensor, index: int) -> Tensor | None:
        if picture.shape[1:] != self._light.shape:
            return None
        rgb = (picture.clamp(0, 1).permute(1, 2, 0).float().cpu().numpy() * 255).round().astype(np.uint8)
        split = cv2.cvtColor(rgb, self._family.there)
        split[..., self._family.channel] = self._light
        changed = cv2.cvtColor(split, self._family.back)
        return torch.from_numpy(changed).permute(2, 0, 1).to(picture) / 255


register(ByLightness())
register(ByIntensity())
