"""The shelf of weights: what a model file holds, reading only what is needed, and the models kept loaded."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from threading import Lock
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from controlstack.errors import ControlError


@dataclass(frozen=True)
class Header:
    """What a model file holds: the name and shape of every tensor, and the metadata of a safetensors file."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_header(path: Path) -> Header:
    """Names and shapes without the tensors. Raises ControlError for a file that cannot be read safely."""
    try:
        if not _is_safetensors(path):
            return Header(path, {name: tuple(tensor.shape) for name, tensor in _unpickle(path).items()})
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return Header(path, shapes, file.metadata() or {})
    except (OSError, SafetensorError, _BrokenPickle) as error:
        raise _unreadable(path, error) from error


def read_tensors(
    header: Header,
    names: Iterable[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """These tensors of a file and no others; floating-point ones come in `dtype`, None meaning as stored.

    On the CPU and in the stored dtype a tensor may be a view of the file: never change it in place.
    Raises ControlError as `read_header` does.
    """
    try:
        if _is_safetensors(header.path):
            with safe_open(header.path, framework="pt") as file:
                return {name: _cast(file.get_tensor(name), dtype, device) for name in names}
        stored = _unpickle(header.path)
        return {name: _cast(stored[name].detach(), dtype, device) for name in names}
    except (OSError, SafetensorError, _BrokenPickle) as error:
        raise _unreadable(header.path, error) from error


def _cast(tensor: Tensor, dtype: torch.dtype | None, device: torch.device | str) -> Tensor:
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _is_safetensors(path: Path) -> bool:
    """By content, since files get renamed: eight bytes of length, then a JSON object."""
    return _head(path)[8:9] == b"{"


class _BrokenPickle(Exception):  # noqa: N818
    """Whatever `torch.load` raised."""


def _unpickle(path: Path) -> dict[str, Tensor]:
    is_zip = _head(path).startswith(b"PK")
    try:
        # A1111 puts a function in the place of `torch.load` that answers None for what it does not know.
        load = torch.serialization.load
        if path.suffix == ".safetensors":
            # Newer torch hands such a path to safetensors, whose loader Forge has replaced by one that moves
            # away what it cannot read.
            with path.open("rb") as file:
                loaded = load(file, map_location="cpu", weights_only=True)
        else:
            # Only the newer zip format can be mapped, which leaves the tensors on disk until they are used.
            loaded = load(os.fspath(path), map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # a damaged pickle can raise anything
        raise _BrokenPickle from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    return dict(_tensors(loaded))


def _tensors(tree: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Nested dictionaries, as in IP-Adapter's .bin files, get the dotted names of the safetensors files."""
    if isinstance(tree, Tensor):
        yield prefix, tree
    elif isinstance(tree, Mapping):
        for name, branch in tree.items():
            yield from _tensors(branch, f"{prefix}.{name}" if prefix else str(name))


def _unreadable(path: Path, error: Exception) -> ControlError:
    what = f"The model file {path.name} cannot be read"
    if isinstance(error, OSError):
        return ControlError(what, f"The system says: {error.strerror or error}", "Refresh the list of models")
    head = _head(path)
    if head.lstrip().startswith(b"<"):
        return ControlError(
            what, "It is a web page: the download met a login or an error", "Download it again"
        )
    if head.startswith(b"version https://git-lfs"):
        return ControlError(
            what, "It is git-lfs's pointer to the model, not the model", "Run git lfs pull, or download it"
        )
    if isinstance(error.__cause__, UnpicklingError) and head.startswith((b"PK", b"\x80")):
        why = "It is a pickle with more than tensors in it, and that could run a program on this computer"
        return ControlError(what, why, "Convert it to .safetensors, or download the .safetensors file")
    size = path.stat().st_size
    return ControlError(what, f"It is damaged or incomplete; it has {size:,} bytes", "Download it again")


def stamp(path: Path) -> tuple[Path, int, int]:
    """Which file, and in which state: changes when the file on disk does. Raises OSError."""
    stat = path.stat()
    return path, stat.st_mtime_ns, stat.st_size


def short_hash(path: Path) -> str:
    """The digits behind a model's name: A1111's `model_hash`, sha256 of 64 KiB at 1 MiB. Raises OSError."""
    with path.open("rb") as file:
        file.seek(0x100000)
        return sha256(file.read(0x10000)).hexdigest()[:8]


class Loaded:
    """The models used last, at most `bound`. One that a job still holds is found again even beyond that."""

    def __init__(self, bound: int = 2) -> None:
        self._lock = Lock()
        self._bound = bound
        self._recent: OrderedDict[Hashable, nn.Module] = OrderedDict()
        self._alive: WeakValueDictionary[Hashable, nn.Module] = WeakValueDictionary()

    @property
    def bound(self) -> int:
        """How many models stay loaded; 0 keeps none that no job holds."""
        return self._bound

    @bound.setter
    def bound(self, bound: int) -> None:
        with self._lock:
            self._bound = bound
            self._shrink(bound)

    def get(self, key: Hashable, build: Callable[[], nn.Module]) -> nn.Module:
        """The model of this key, built if it is not there. `key` has all that its weights depend on."""
        with self._lock:
            model = self._alive.get(key)
            if model is None:
                self._shrink(self._bound - 1)  # before loading, so that the peak stays within the bound too
                model = self._alive[key] = build()
            self._recent[key] = model
            self._recent.move_to_end(key)
            self._shrink(self._bound)
            return model

    def _shrink(self, size: int) -> None:
        while len(self._recent) > max(size, 0):
            self._recent.popitem(last=False)
