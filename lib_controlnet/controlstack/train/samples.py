"""Which examples are seen in what order, and what is drawn for each: functions of the seed and a number.

Nothing here has a state, so a training that was killed goes on exactly where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

Example = Mapping[str, Any]
"""One example.

hint: "3 H W", uint8 or 0..1, or -1 where an inpaint hint is masked
picture: "3 H W", uint8 or 0..1; or instead
latent: "4 h w" as the UNet reads it, scaled; with `spread` "4 h w", also scaled, it is the mean of what the
    VAE says of the picture, and every sight of it is another draw
caption: text; or instead `context` "77 D" and, for SDXL, `pooled` "P"
size: SDXL's size conditioning, 6 numbers in px: height and width of the original, top and left of the crop,
    height and width; by default a picture that was not cropped
"""

CELL = 8
"""Px in a latent cell."""


class Examples(Protocol):
    """A map-style data set. If it has a `fingerprint`, a text, training goes on only with the same one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Samples(Dataset[dict[str, Any]]):
    """Sample 0, 1, 2 … of a training: an example, its noise, its timestep and whether its prompt is kept.

    `torch.utils.data.DataLoader` takes it as a data set whose indices are the numbers of samples.
    """

    def __init__(self, data: Examples, seed: int, prompt_dropout: float, timesteps: int) -> None:
        self._data, self._seed, self._timesteps = data, seed, timesteps
        self._dropout = prompt_dropout
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, number: int) -> dict[str, Any]:
        epoch, place = divmod(number, len(self._data))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permutation(epoch)
        example = self._data[int(self._order[place])]
        draw = np.random.Generator(np.random.Philox(key=[self._seed, number]))
        shape = _latent_shape(example)
        return {
            **example,
            "timestep": torch.tensor(draw.integers(self._timesteps)),
            "kept": torch.tensor(draw.random() >= self._dropout),
            "noise": torch.from_numpy(draw.standard_normal(shape, np.float32)),
            "draw": torch.from_numpy(draw.standard_normal(shape, np.float32)),
        }

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        """Every example once."""
        key = [self._seed, 2**63 + epoch]  # the lower half of the second word belongs to samples
        return np.random.Generator(np.random.Philox(key=key)).permutation(len(self._data))


def _latent_shape(example: Example) -> tuple[int, ...]:
    if "latent" in example:
        return tuple(example["latent"].shape)
    height, width = example["picture"].shape[-2:]
    return (4, height // CELL, width // CELL)


class Numbers:
    """The numbers of the samples in each batch of one process, from a step on, without end."""

    def __init__(self, first: int, batch: int, processes: int = 1, process: int = 0) -> None:
        """first: how many batches every process has seen"""
        self._first, self._batch, self._processes, self._process = first, batch, processes, process

    def __iter__(self) -> Iterator[list[int]]:
        nth = self._first
        while True:
            start = (nth * self._processes + self._process) * self._batch
            yield list(range(start, start + self._batch))
            nth += 1


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch: tensors stacked, texts in a list."""
    columns = {name: [sample[name] for sample in samples] for name in samples[0]}
    return {
        name: torch.stack(column) if isinstance(column[0], Tensor) else column
        for name, column in columns.items()
    }
