"""Finding rooms: every `.py` file below a package's folders is one, and none is listed anywhere else."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from controlstack.log import log


def names(package: ModuleType) -> Iterator[str]:
    """The import names of all rooms of a package, sorted. Its folders need no `__init__.py`."""
    for root in sorted({Path(folder).resolve() for folder in package.__path__}):
        for file in sorted(root.rglob("*.py")):
            if not any(part.startswith(("_", ".")) for part in file.relative_to(root).parts):
                yield ".".join((package.__name__, *file.relative_to(root).with_suffix("").parts))


def load(package: ModuleType) -> dict[str, Exception]:
    """Import every room of a package. Returns those that would not come, with the reason; the others live."""
    broken: dict[str, Exception] = {}
    for name in names(package):
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  a room may be anyone's file: it fails alone, and is named
            log.error("%s cannot be loaded: %s: %s", name, type(error).__name__, error)
            broken[name] = error
    return broken
