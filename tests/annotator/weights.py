"""Seeded random weights in the layout of a published file, and where people would put them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, log2
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from controlstack.downloads import File, Store
from controlstack.networks import Networks

_LAYOUTS = Path(__file__).parent / "layouts"
_LENGTH = 1 << 16
_STRIDES = (5, 3, 7, 1, 2)


def listed(name: str) -> dict[str, Tensor]:
    """Tensors of the names and shapes in a file of the folder layouts, one "name size size ..." a line."""
    lines = (line.split() for line in (_LAYOUTS / name).read_text("utf-8").splitlines())
    return {
        name: torch.empty([int(size) for size in shape], dtype=torch.float32 if shape else torch.int64)
        for name, *shape in lines
    }


def like(layout: nn.Module | Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Weights of the names and shapes of a library's network, such that its signals neither die nor grow.

    All are overlapping views of a few short storages: the file of a gigabyte's network has some hundred kB.
    """
    shapes = layout.state_dict() if isinstance(layout, nn.Module) else layout
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(_LENGTH, generator=generator)
    by_scale: dict[int, Tensor] = {}
    return {name: _values(name, tensor, noise, by_scale) for name, tensor in shapes.items()}


def _values(name: str, tensor: Tensor, noise: Tensor, by_scale: dict[int, Tensor]) -> Tensor:
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor)
    if name.endswith("running_var"):
        return torch.ones_like(tensor)
    if tensor.dim() < 2:
        is_gain = name.endswith("weight") or "gamma" in name
        return float(is_gain) + 0.1 * noise[torch.arange(tensor.numel()) % _LENGTH].reshape(tensor.shape)
    halvings = ceil(log2(max(tensor[0].numel(), 1)) / 2)
    scaled = by_scale.setdefault(halvings, noise / 2**halvings)
    strides = list(_STRIDES[: tensor.dim()])
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    assert reach < _LENGTH, f"{name} {tuple(tensor.shape)} needs a longer storage"
    return scaled.as_strided(tensor.shape, strides)


def placed(
    folder: Path, file: File, state: Mapping[str, Any], wrap: Callable[[object], object] = dict
) -> Networks:
    """Networks that find these weights in the incumbent's subfolder, and can download nothing.

    wrap: how the published file nests its tensors
    """
    path = folder / file.folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(
            {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()},
            path,
        )
    else:
        torch.save(wrap(state), path)
    return Networks(Store([folder], offline=True), "cpu")
