"""The start noise of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from modules import devices
from torch import Tensor


class ImageRNG:
    """One generator for each picture with its own seed, so that its noise does not depend on the batch.

    The noise is drawn on the CPU and is the same on every device. Samplers that draw more on the way go on
    with `generators`.
    """

    def __init__(self, shape: Sequence[int], seeds: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def next(self) -> Tensor:
        """Noise "B C h w" of unit variance."""
        noise = torch.stack([torch.randn(self.shape, generator=generator) for generator in self.generators])
        return noise.to(devices.device, devices.dtype_unet)

    def first(self) -> Tensor:
        """The same, as A1111 calls it for a first pass."""
        return self.next()
