"""Packages that only some preprocessors need: imported when one runs; a broken one stops only those."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from controlstack.errors import ControlError
from controlstack.log import log

_INSTALL = {
    "controlnet_aux": "controlnet_aux==0.0.10 --no-deps",  # its requirements bring a second OpenCV
    "mediapipe": "mediapipe==0.10.21",  # later ones have no mp.solutions
    "skimage": "scikit-image",
    "facexlib": "facexlib --no-deps",  # of the rest of it nothing is used
    "mesh_graphormer": "--no-deps https://github.com/huchenlei/HandRefinerPortable/releases/download/v1.0.1/"
    "handrefinerportable-2024.2.12.0-py2.py3-none-any.whl",  # only its data are read
    "timm": "timm --no-deps",  # its requirements bring a torchvision, which may be for another torch
}
"""What pip is asked for, where that is more than the name."""

_PIP = f'"{sys.executable}" -m pip install'
"""Installs into the WebUI's own Python."""

_ALONE = "controlstack_"
"""In front of the names of packages of which single modules are taken."""
_IN_PARTS = {"controlnet_aux", "facexlib"}

_failed: dict[str, Exception] = {}
"""What imports in this process raised, by package: one that failed stays broken until a restart."""


def fault(package: str) -> ControlError | None:
    """Why a package cannot be used, as far as is known without importing it; None if nothing is."""
    if package in _failed:
        return _explained(package, _failed[package])
    try:
        there = find_spec(package) is not None
    except (ImportError, ValueError) as error:  # a finder forbids it, or half a module stands there
        return _explained(package, error)
    return None if there else _explained(package, ModuleNotFoundError(name=package))


def bring(module: str) -> ModuleType:
    """Import a module. Raises ControlError, which names the package that is absent or broken."""
    return _imported(module, module.partition(".")[0])


def take(module: str, name: str) -> Any:
    """A class or function of a module. Raises as `bring`, also where the version that is there lacks it."""
    package = bring(module)
    try:
        return getattr(package, name)
    except (AttributeError, ImportError, RuntimeError) as error:
        version = getattr(package, "__version__", "that is installed")
        raise ControlError(
            f"The package {module} {version} has no {name}",
            "A later version has it",
            f"If the WebUI works with a later one, run {_PIP} --upgrade {module}, and restart",
        ) from error


def check(names: Iterable[str]) -> None:
    """Import these packages, except those of which single modules are taken. Raises as `bring`."""
    for name in names:
        if name not in _IN_PARTS:
            bring(name)


def controlnet_aux(module: str) -> ModuleType:
    """A module of huggingface/controlnet_aux, such as "hed" or "midas.midas.dpt_depth". Raises as `bring`.

    Its own `__init__` imports all detectors with timm, torchvision and mediapipe, which takes seconds and
    fails together.
    """
    return alone("controlnet_aux", module)


def alone(package: str, module: str) -> ModuleType:
    """A module of a package whose own `__init__` does not run. Raises as `bring`.

    Only the module itself and what it needs run, under another name, so that importing the package elsewhere
    still works.
    """
    if error := fault(package):
        raise error
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    name = _ALONE + package
    _bare_package(name, folders)
    for parent in module.split(".")[:-1]:
        name, folders = f"{name}.{parent}", [f"{folder}/{parent}" for folder in folders]
        _bare_package(name, folders)
    return _imported(f"{_ALONE}{package}.{module}", package)


def _bare_package(name: str, folders: list[str]) -> None:
    """A package of this name over these folders, whose `__init__` does not run."""
    if name not in sys.modules:
        sys.modules[name] = package = ModuleType(name)
        package.__path__ = folders


def _imported(module: str, package: str) -> ModuleType:
    try:
        return import_module(module)
    except Exception as error:  # someone else's package: it may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else package
        culprit = package if missing.startswith(_ALONE) else missing.partition(".")[0]
        _failed[culprit] = error
        log.warning("%s cannot be imported: %s: %s", module, type(error).__name__, error)
        raise _explained(culprit, error) from error


def _explained(package: str, error: Exception) -> ControlError:
    wanted = _INSTALL.get(package, package)
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return ControlError(
            f"The package {package} is not installed",
            fix=f"Run {_PIP} {wanted}, and restart",
        )
    said = " ".join(str(error).split())
    return ControlError(
        f"The package {package} cannot be imported",
        f"It raises {type(error).__name__}: {said[:300]}",
        f"Run {_PIP} --force-reinstall {wanted}, and restart",
    )
