"""The start noise of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from modules import devices
from torch import Tensor

from controlstack.hosts.embedded import noise


class ImageRNG:
    """One generator for each picture with its own seed, so that its noise does not depend on the batch.

    The noise is drawn on the CPU and is the same on every device. Samplers that draw more on the way go on
    with `generators`. The first noise lies between that of the seed and that of the subseed, by
    `subseed_strength`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        seeds: Sequence[int],
        subseeds: Sequence[int] = (),
        subseed_strength: float = 0,
    ) -> None:
        self.shape = tuple(shape)
        self.subseeds, self.subseed_strength = subseeds, subseed_strength
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.is_first = True

    def next(self) -> Tensor:
        """Noise "B C h w" of unit variance."""
        if self.is_first:
            self.is_first = False
            return self.first()
        return self._placed(self._drawn())

    def first(self) -> Tensor:
        """The noise that a pass starts with."""
        drawn = self._drawn()
        if not self.subseed_strength:
            return self._placed(drawn)
        others = (torch.randn(self.shape, generator=torch.Generator().manual_seed(s)) for s in self.subseeds)
        pairs = zip(drawn, others, strict=True)
        return self._placed(noise.slerp(self.subseed_strength, low, high) for low, high in pairs)

    def _drawn(self) -> Iterable[Tensor]:
        return (torch.randn(self.shape, generator=generator) for generator in self.generators)

    def _placed(self, drawn: Iterable[Tensor]) -> Tensor:
        return torch.stack(list(drawn)).to(devices.device, devices.dtype_unet)
