"""Straight lines by M-LSD: white segments on black, for buildings and rooms.

Source: G. Gu and others, Towards Light-Weight and Real-Time Line Segment Detection, 2022, and its port to
PyTorch by lhwcv. For every cell of 2x2 px the network says how likely the middle of a segment lies there, and
where its ends are.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, filled, pixels
from controlstack.packages import controlnet_aux
from controlstack.preprocess import Ask, Preprocessor, Slider, at_resolution, register

WEIGHTS = File(
    repository="lllyasviel/Annotators",
    path="mlsd_large_512_fp32.pth",
    folder="mlsd",
    licence="Apache-2.0",
    sha256="5696f168eb2c30d4374bbfd45436f7415bb4d88da29bea97eea0101520fba082",
    size=6_341_481,
)
MOST_SEGMENTS = 200


@at_resolution
def mlsd(picture: Array, ask: Ask) -> Array:
    """Segments likelier than `ask.a` and longer than `ask.b` cells."""
    network = ask.networks.get(WEIGHTS, _network)
    seen = pixels(picture, network)
    opaque = torch.ones_like(seen[:, :1])  # the fourth channel of the pictures it learned from
    found = _segments(network(torch.cat([seen, opaque], 1) / 127.5 - 1)[0].float(), ask.a, ask.b)
    drawing = np.zeros(picture.shape[:2], np.uint8)
    for x0, y0, x1, y1 in found.cpu().numpy().astype(int).tolist():
        cv2.line(drawing, (x0, y0), (x1, y1), 255, 1)
    return hwc3(drawing)


def _segments(maps: Tensor, likelihood: float, length: float) -> Tensor:
    """Segments "N 4" (x and y of both ends, px) of maps "C h w": middles, then displacements of the ends."""
    heat = maps[0].sigmoid()
    peaks = heat == nn.functional.max_pool2d(heat[None], 3, 1, 1)[0]
    scores, places = (heat * peaks).flatten().topk(MOST_SEGMENTS)
    y, x = places // heat.shape[1], places % heat.shape[1]
    displacements = maps[1:5, y, x]
    reach = (displacements[:2] - displacements[2:]).square().sum(0).sqrt()
    ends = 2 * (torch.stack([x, y, x, y]) + displacements)
    return ends.T[(scores > likelihood) & (reach > length)]


def _network(state: State) -> nn.Module:
    return filled(controlnet_aux("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large(), state)


register(
    Preprocessor(
        name="mlsd",
        run=mlsd,
        label="mlsd",
        control_types=("MLSD",),
        priority=100,
        a=Slider("MLSD Value Threshold", 0.01, 2, 0.01, 0.1),
        b=Slider("MLSD Distance Threshold", 0.01, 20, 0.01, 0.1),
        soft_in_hires=True,
        network="M-LSD large",
        files=(WEIGHTS,),
        packages=("controlnet_aux",),
    )
)
