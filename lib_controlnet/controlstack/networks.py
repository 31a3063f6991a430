"""Networks of preprocessors: built of their weights when asked for, kept for the next run within bounds."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from threading import RLock
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controlstack.downloads import File, Store
from controlstack.errors import ControlError
from controlstack.packages import bring
from controlstack.progress import tell
from controlstack.weights import read_header, read_tensors, stamp

State: TypeAlias = dict[str, Tensor]
"""Tensors by name, as they stand in a file; floating-point ones in float32."""


_PARALLEL = re.compile(r"(?<![^.])module\.")
"""What the data parallelism that a network was trained with adds to names, wherever it wrapped a part."""


MAX_LOADED = 2 << 30
"""Most bytes of networks that stay loaded beside the one used last."""

Room: TypeAlias = Callable[[int, torch.device], None]
"""Has a host free so many bytes of a device, and what computing takes beside them."""


class Networks:
    """What a preprocessor gets its network from. Those used last stay loaded.

    store: where weights lie
    device: where networks run; None takes the first graphics card there is
    bound: most bytes that stay loaded beside the network used last
    room: called before a network goes to the device
    """

    def __init__(
        self,
        store: Store | None = None,
        device: torch.device | str | None = None,
        bound: int = MAX_LOADED,
        room: Room | None = None,
    ) -> None:
        self.store = store or Store()
        self.bound = bound
        self._device = None if device is None else torch.device(device)
        self._room = room
        self._loaded: OrderedDict[Hashable, tuple[nn.Module, int]] = OrderedDict()
        self._lock = RLock()

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return self._device or _best_device()

    def taken(self) -> dict[str, int]:
        """Bytes of the networks that are loaded, by the type of the device that they lie on."""
        taken: dict[str, int] = {}
        with self._lock:
            for network, size in self._loaded.values():
                place = _place(network).type
                taken[place] = taken.get(place, 0) + size
        return taken

    def rest(self) -> None:
        """Move all networks into main memory: the device is wanted for something else."""
        with self._lock:
            resting = [network for network, _ in self._loaded.values() if _place(network).type != "cpu"]
            for network in resting:
                network.cpu()
        if resting:
            _give_back()

    def unload(self) -> None:
        """Let go of all networks; the next run loads its own again."""
        with self._lock:
            held = bool(self._loaded)
            self._loaded.clear()
        if held:
            _give_back()

    def get(self, file: File, build: Callable[[State], nn.Module]) -> nn.Module:
        """The network of this file, ready to infer on `device`. `build` makes it of the file's tensors.

        Raises ControlError if the file cannot be had or read, or holds another network's weights.
        """
        path = self.store.get(file)
        return self._ready(path, lambda: self._load(file, path, build))

    def open(self, file: File, build: Callable[[Path], nn.Module]) -> nn.Module:
        """As `get`, of a file that holds the network itself (ONNX, TorchScript), which `build` reads."""
        path = self.store.get(file)
        return self._ready(path, lambda: self._opened(file, path, build))

    def _ready(self, path: Path, make: Callable[[], nn.Module]) -> nn.Module:
        key = stamp(path)
        with self._lock:
            network, size = self._loaded.pop(key, (None, 0))
            while sum(size for _, size in self._loaded.values()) > self.bound:
                self._loaded.popitem(last=False)
            if network is None:
                tell(f"Loading {path.name}", level=logging.DEBUG)
                network = make()
                size = _bytes(network) or path.stat().st_size  # what others run keeps about its file's size
            self._loaded[key] = network, size
            if self._room and _place(network).type != self.device.type:
                self._room(size, self.device)
            return network.to(self.device)

    def _opened(self, file: File, path: Path, build: Callable[[Path], nn.Module]) -> nn.Module:
        try:
            network = build(path)
        except (RuntimeError, ValueError, cv2.error) as error:  # what torch and OpenCV cannot read
            raise _another(file, path, error) from error
        return network.eval()

    def _load(self, file: File, path: Path, build: Callable[[State], nn.Module]) -> nn.Module:
        header = read_header(path)
        tensors = read_tensors(header, header.shapes, dtype=torch.float32)
        state = {_PARALLEL.sub("", name): tensor for name, tensor in tensors.items()}
        try:
            network = build(state)
        except (RuntimeError, KeyError, IndexError, ValueError) as error:  # names or shapes do not fit
            raise _another(file, path, error) from error
        return network.eval().requires_grad_(False)


def _place(network: nn.Module) -> torch.device:
    """Where a network lies; one without weights of its own, as from an ONNX file, lies in main memory."""
    return next((tensor.device for tensor in _tensors(network)), torch.device("cpu"))


def _bytes(network: nn.Module) -> int:
    """What its weights take, those counted once that it uses twice."""
    return sum(
        {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in _tensors(network)}.values()
    )


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    return chain(network.parameters(), network.buffers())


def _give_back() -> None:
    """Have torch hand what it keeps for later back to the graphics card's other users."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _another(file: File, path: Path, error: Exception) -> ControlError:
    return ControlError(
        f"The file {path.name} holds weights of another network",
        " ".join(str(error).split())[:300],
        f"Remove {path}; it comes from {file.source}",
    )


def below(state: State, prefix: str) -> State:
    """The tensors whose names begin so, without that beginning; all, if none does."""
    found = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
    return found or state


def filled(network: nn.Module, state: State) -> nn.Module:
    """The network with exactly these weights. Raises RuntimeError if names or shapes differ."""
    network.load_state_dict(state)
    return network


def of_transformers(
    model: type[nn.Module], config: object, state: State, unused: Sequence[str] = ()
) -> nn.Module:
    """A network of transformers with these weights, which may have the names of any of its versions.

    unused: parts of the names of tensors that a newer version has, and computes nothing with
    Raises RuntimeError if one of the others is absent or of another shape.
    """
    say = bring("transformers.utils.logging")
    verbosity, bars = say.get_verbosity(), say.is_progress_bar_enabled()
    say.set_verbosity(say.CRITICAL)  # it would report what is said better here
    say.disable_progress_bar()
    try:
        network, loading = model.from_pretrained(  # type: ignore[attr-defined]
            None, config=config, state_dict=state, output_loading_info=True
        )
    finally:
        say.set_verbosity(verbosity)
        if bars:
            say.enable_progress_bar()
    missing = [name for name in loading["missing_keys"] if not any(part in name for part in unused)]
    if missing:
        raise RuntimeError(f"{len(missing)} tensors are absent, among them {min(missing)}")
    made: nn.Module = network
    return made


def pixels(picture: NDArray[np.generic], network: nn.Module) -> Tensor:
    """A picture "H W 3" as "1 3 H W", 0..255 in float32, where the network is."""
    device = next(network.parameters()).device
    return torch.from_numpy(picture.astype(np.float32)).to(device).permute(2, 0, 1)[None]


def imagenet(picture: NDArray[np.generic], network: nn.Module) -> Tensor:
    """A picture "H W 3", 0..255, as "1 3 H W" around 0 with the spread of ImageNet's pictures at 1."""
    seen = pixels(picture, network) / 255
    return (seen - seen.new_tensor(_MEAN)[:, None, None]) / seen.new_tensor(_DEVIATION)[:, None, None]


_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in ImageNet, 0..1."""


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
