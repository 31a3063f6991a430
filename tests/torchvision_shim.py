"""Lets `import torchvision` work where its compiled operators cannot load (a CUDA build beside a CPU torch).

install.py copies this file into the test environment, where a .pth line imports it whenever Python starts.
It costs nothing until torchvision is imported. Transforms and models then work; the operators stay absent.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
libraries: list[Any] = []  # a torch Library withdraws its schemas when it is collected


class TorchvisionFinder:
    """Finds torchvision as Python does and declares its operators just before it runs."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            declare()
            execute(module)

        spec.loader.exec_module = exec_module
        return spec


def declare() -> None:
    """Declare the two operators whose absence makes `import torchvision` raise."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(operator + SCHEMA)
    libraries.append(library)


sys.meta_path.insert(0, TorchvisionFinder)
