"""The picture poured into random swirls: its colours and textures stay, its composition goes.

Source: content shuffle of lllyasviel/ControlNet-v1-1-nightly. Every pixel is taken from where two smooth
noise fields point, one for x and one for y. The models learned from pictures of 512 px with noise cells of
256 px, so the map has that size.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from controlstack.geometry import padded
from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, register

SHORT_SIDE = 512
"""px"""
NOISE_CELL = 256
"""px"""


def shuffle(image: Array, ask: Ask) -> Array:
    """The picture warped by `ask.seed`, taken modulo 2³²; the short side of the map is 512 px."""
    padding, crop = padded(image, SHORT_SIDE)
    picture = padding[crop]
    h, w = picture.shape[:2]
    # This generator, x before y: so a seed gives the same swirls as in other ControlNet extensions.
    random = np.random.RandomState(ask.seed & 0xFFFFFFFF)
    x = _smooth_noise(h, w, random) * (w - 1)
    y = _smooth_noise(h, w, random) * (h - 1)
    warped: Array = cv2.remap(picture, np.dstack([x, y]).astype(np.float32), None, cv2.INTER_LINEAR)
    return warped


def _smooth_noise(h: int, w: int, random: np.random.RandomState) -> NDArray[np.float64]:
    """Noise "h w" that varies over `NOISE_CELL` px and spans exactly 0..1."""
    cells = random.uniform(size=(h // NOISE_CELL + 2, w // NOISE_CELL + 2))
    size = (w + 2 * NOISE_CELL, h + 2 * NOISE_CELL)
    noise = cv2.resize(cells, size, interpolation=cv2.INTER_CUBIC)
    noise = noise[NOISE_CELL : NOISE_CELL + h, NOISE_CELL : NOISE_CELL + w]
    spread: NDArray[np.float64] = (noise - noise.min()) / (noise.max() - noise.min())
    return spread


register(
    Preprocessor(
        name="shuffle",
        run=shuffle,
        label="shuffle",
        control_types=("Shuffle",),
        resolution=None,
        seeded=True,
    )
)
