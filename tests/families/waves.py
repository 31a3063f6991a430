"""Numbers by a formula, so that what other code made of them can be kept without them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def wave(*shape: int, seed: int) -> Tensor:
    """As large as what layers are filled with, by what they read."""
    fan = shape[-1] if len(shape) < 2 else math.prod(shape[1:])
    at = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(at * (1.7 + 0.013 * seed) + seed) * 1.5 / math.sqrt(fan)).float().reshape(shape)


def state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of these names and shapes; weights of norms are near 1."""
    made = {}
    for seed, name in enumerate(sorted(shapes)):
        norm = name.endswith("weight") and len(shapes[name]) == 1
        made[name] = wave(*shapes[name], seed=seed) + float(norm)
    return made
