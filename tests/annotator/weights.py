"""Seeded random weights in the layout of a published file, and a hub on this computer that has them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil, log2
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hub import Hub, serving
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


class Mirror(Store):
    """Weights as people get them: a folder that is empty at first, and a hub that has what `offered` gave it.

    Size and sum in the table are those of the published weights; random ones are held against what the hub
    states of them, as weights are whose sum nobody published.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__([folder])

    def get(self, file: File) -> Path:
        if found := self.find(file):
            return found
        key, path = _on_hub(self.folders[0], file)
        files = {key: path.read_bytes()} if path.is_file() else {}
        online = {"HF_HUB_OFFLINE": "0"}
        with serving(Hub(files)) as hub, mock.patch.dict(os.environ, online, HF_ENDPOINT=hub.endpoint):
            got = super().get(replace(file, size=None, sha256=None))
        assert hub.bodies() == [None], "downloaded once, whole"
        assert got == self.place(file)
        return got


def _on_hub(folder: Path, file: File) -> tuple[str, Path]:
    """What the hub calls a file, and where that lies."""
    key = f"{'spaces/' if file.space else ''}{file.repository}/resolve/{file.revision}/{file.path}"
    return key, folder / "hub" / key


def offered(folder: Path, file: File, write: Callable[[Path], object]) -> Networks:
    """Networks that get this file, which `write` makes, as people do.

    It is downloaded when a preprocessor asks for it. What its licence leaves to its user is put where the
    sentence about it says.
    """
    store = Mirror(folder)
    store.place(file).unlink(missing_ok=True)
    path = _on_hub(folder, file)[1]
    if file.placed_by_user:
        said, path = str(store.fault(file)), store.place(file)
        assert file.licence in said
        assert str(path.parent) in said
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    return Networks(store, "cpu")


def published(
    folder: Path, file: File, state: Mapping[str, Any], wrap: Callable[[object], object] = dict
) -> Networks:
    """`offered` for a set of tensors. wrap: how the published file nests them"""

    def write(path: Path) -> None:
        if path.suffix == ".safetensors":
            solid = {
                name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
            }
            save_file(solid, path)
        else:
            torch.save(wrap(state), path)

    return offered(folder, file, write)
