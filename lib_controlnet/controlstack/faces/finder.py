"""The import names under which other extensions know ControlNet, where nobody else has them.

An extension may import them before the host has loaded us, or under a folder name that is not ours. Python
asks this finder last, so that every name which exists on disk stays whoever's it is. Standard library only:
`preload.py` installs it before anything else runs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

FACES = {
    "external_code": "controlstack.faces.external_code",
    "global_state": "controlstack.faces.global_state",
}
INCUMBENT = "sd-webui-controlnet"
"""The folder name that callers of the incumbent write into their code."""
FORGE = "lib_controlnet"
"""What the built-in ControlNet of Forge is imported as. Callers take it for a sign that they run on Forge."""


def names(folder: str) -> dict[str, str]:
    """From import name to our module; "" stands for a package that only leads to others.

    folder: what the extension's own folder is called
    """
    found = {f"scripts.{face}": module for face, module in FACES.items()}
    found |= {"internal_controlnet": "", "internal_controlnet.args": "controlstack.unit"}
    found["internal_controlnet.external_code"] = FACES["external_code"]
    for root in ("extensions", "extensions-builtin"):
        found[root] = ""
        for package in (f"{root}.{INCUMBENT}", f"{root}.{folder}"):
            found |= {package: "", f"{package}.scripts": ""}
            found |= {f"{package}.scripts.{face}": module for face, module in FACES.items()}
    found |= {FORGE: "", f"{FORGE}.logging": "controlstack.faces.logging"}
    return found | {f"{FORGE}.{face}": module for face, module in FACES.items()}


class Finder(MetaPathFinder):
    """Answers for `names`, unless another extension is ControlNet here."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname not in self.names or not _ours(fullname):
            return None
        if module := self.names[fullname]:
            return ModuleSpec(fullname, _Alias(module))
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = _Portions(fullname)  # type: ignore[assignment]
        return spec


def _ours(name: str) -> bool:
    from controlstack.hosts import neighbours

    if name.partition(".")[0] == FORGE and find_spec("modules_forge") is None:
        return False
    return neighbours.rival() is None


class _Alias(Loader):
    """Makes a name mean a module of ours: the same object, whichever name it came by."""

    def __init__(self, module: str) -> None:
        self.module = module

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self.module)


class _Portions:
    """Where the parts of a package lie that nobody had when it was first asked for. Others may bring some
    later, by adding to `sys.path`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __iter__(self) -> Iterator[str]:
        spec = None if "." in self.name else PathFinder.find_spec(self.name)
        return iter((spec and spec.submodule_search_locations) or ())


def install(folder: Path) -> None:
    """Have Python ask us last. Hosts run `preload.py` once, tests more often."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder(names(folder.name)))
