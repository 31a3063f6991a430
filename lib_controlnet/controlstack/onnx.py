"""Networks that lie in ONNX files: run by onnxruntime where it is installed, else by OpenCV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controlstack import packages
from controlstack.errors import ControlError

_Run: TypeAlias = Callable[[NDArray[np.float32]], Sequence[Any]]


class Onnx(nn.Module):
    """A network of one input and some outputs."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, x: Tensor) -> list[Tensor]:
        """The outputs, on the CPU, in the order of the file or in OpenCV's."""
        given = np.ascontiguousarray(x.detach().cpu().numpy(), np.float32)
        return [torch.from_numpy(np.array(output)) for output in self._run(given)]


def read(path: Path) -> Onnx:
    """The network in a file. Raises ValueError for a file that neither of the two can read."""
    runtime = _runtime()
    try:
        return Onnx(_by_opencv(path) if runtime is None else _by_onnxruntime(path, runtime))
    except Exception as error:  # each library raises its own
        raise ValueError(str(error)) from error


def _runtime() -> Any:
    """onnxruntime, None where it is absent or broken; the log says so, and OpenCV takes its place."""
    if packages.fault("onnxruntime"):
        return None
    try:
        return packages.bring("onnxruntime")
    except ControlError:
        return None


def _by_onnxruntime(path: Path, runtime: Any) -> _Run:
    there = runtime.get_available_providers()
    wanted = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in there]
    session = runtime.InferenceSession(path.read_bytes(), providers=wanted)
    name = session.get_inputs()[0].name
    return lambda given: session.run(None, {name: given})


def _by_opencv(path: Path) -> _Run:
    network: Any = cv2.dnn.readNetFromONNX(np.frombuffer(path.read_bytes(), np.uint8))
    names = network.getUnconnectedOutLayersNames()

    def run(given: NDArray[np.float32]) -> Sequence[Any]:
        network.setInput(given)
        outputs: Sequence[Any] = network.forward(names)
        return outputs

    return run
