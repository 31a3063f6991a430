"""Pictures that preprocessors are tried on, and other people's preprocessors to compare ours with."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType

import pytest
import skimage.data

from controlstack.image import Array


@pytest.fixture(scope="session")
def astronaut() -> Array:
    """A photograph of 512x512 px."""
    picture: Array = skimage.data.astronaut()
    picture.setflags(write=False)
    return picture


@pytest.fixture(scope="session")
def chelsea() -> Array:
    """A photograph of a cat, 451x300 px: neither side is a multiple of 64."""
    picture: Array = skimage.data.chelsea()
    picture.setflags(write=False)
    return picture


@pytest.fixture(scope="session")
def controlnet_aux() -> Callable[[str], ModuleType]:
    """Modules of huggingface/controlnet_aux by name; its package itself would import torchvision and more."""
    spec = find_spec("controlnet_aux")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("controlnet_aux is not installed")
    package = ModuleType("controlnet_aux_files")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[package.__name__] = package
    return lambda module: importlib.import_module(f"{package.__name__}.{module}")
