"""The parts of anime faces in seven colours: hair, eyes, mouth, face, skin, clothes and background.

Source: siyeong0/Anime-Face-Segmentation, a U-Net over a MobileNetV2. The network is written here after the
layout of its published weights.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from controlstack.downloads import File
from controlstack.image import Array
from controlstack.networks import State, filled, pixels
from controlstack.packages import take
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register

WEIGHTS = File(
    repository="bdsqlsz/qinglong_controlnet-lllite",
    path="Annotators/UNet.pth",
    folder="anime_face_segment",
    licence="the repository's",
)
SIDE, MULTIPLE = 512, 32
"""px: the short side that the network reads, and what its sides are multiples of."""
COLOURS = np.array(
    [(255, 255, 0), (0, 0, 255), (255, 0, 0), (255, 255, 255), (0, 255, 0), (0, 255, 255), (255, 0, 255)],
    np.uint8,
)
"""Of background, hair, eyes, mouth, face, skin and clothes."""
SCALES = (slice(0, 2), slice(2, 4), slice(4, 7), slice(7, 14), slice(14, 17))
"""Blocks of MobileNetV2, each of which halves the sides once."""
WIDTHS = (16, 24, 32, 96, 160)
"""Channels after each."""


@at_resolution
def anime_face(picture: Array, ask: Ask) -> Array:
    """The likeliest part at each pixel."""
    network = ask.networks.get(WEIGHTS, _network)
    height, width = picture.shape[:2]
    scale = SIDE / min(height, width)
    read = [round(side * scale / MULTIPLE) * MULTIPLE for side in (width, height)]
    seen = cv2.resize(picture, read, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    parts = network(pixels(seen, network) / 255)[0].argmax(0).to(torch.uint8).cpu().numpy()
    return COLOURS[cv2.resize(parts, (width, height), interpolation=cv2.INTER_NEAREST)]


def _network(state: State) -> nn.Module:
    return filled(Parts(), state)


class Parts(nn.Module):
    """RGB "B 3 H W", 0..1, to scores "B 7 H W". Sides are multiples of 32 px."""

    def __init__(self) -> None:
        super().__init__()
        blocks = take("torchvision.models", "mobilenet_v2")(weights=None).features
        for scale, part in enumerate(SCALES):
            self.add_module(f"en_block{scale}", nn.Sequential(*blocks[part]))
        self.de_block4 = _growing(WIDTHS[4], WIDTHS[3])
        for scale, (outer, inner) in zip((1, 2, 3), pairwise(WIDTHS[:4]), strict=True):
            self.add_module(f"de_block{scale}", _growing(2 * inner, outer))
        self.de_block0 = nn.Sequential(
            nn.UpsamplingNearest2d(scale_factor=2), nn.Conv2d(32, len(COLOURS), 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Down through five scales and up again, each met by the features of its size."""
        features = []
        for scale in range(len(SCALES)):
            x = self.get_submodule(f"en_block{scale}")(x)
            features.append(x)
        x = features.pop()
        for scale in (4, 3, 2, 1):
            x = torch.cat([self.get_submodule(f"de_block{scale}")(x), features.pop()], 1)
        scores: Tensor = self.de_block0(x)
        return scores


def _growing(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.UpsamplingNearest2d(scale_factor=2),
        nn.Conv2d(inner, outer, 3, 1, 1),
        nn.InstanceNorm2d(outer),
        nn.LeakyReLU(0.1),
    )


register(
    Preprocessor(
        name="anime_face_segment",
        run=anime_face,
        label="seg_anime_face",
        control_types=("Segmentation",),
        network="U-Net, MobileNetV2",
        files=(WEIGHTS,),
        packages=("torchvision",),
    )
)
