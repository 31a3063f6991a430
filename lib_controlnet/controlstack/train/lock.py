"""One training in a folder at a time."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from controlstack.errors import ControlError

NAME = "training.lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made: a file in it names the process until it is done.

    A file whose process has ended, as after a kill or a power cut, is taken over. Raises ControlError where
    another training holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / NAME
    try:
        _write(file)
    except FileExistsError:
        if found := _holder(file):
            raise ControlError(
                f"The folder {folder} is being trained in",
                f"Process {found['process']} of {found['machine']} began there and has not ended",
                f"Choose another folder, or end it; if it is long gone, remove {file}",
            ) from None
        file.unlink(missing_ok=True)
        _write(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _write(file: Path) -> None:
    """Raises FileExistsError if it is there: one of two processes that try at once is told so."""
    with file.open("x", encoding="utf-8") as stream:
        json.dump(_myself(), stream)


def _holder(file: Path) -> dict[str, Any] | None:
    """What a lock says of its process; None where that has ended, or ended while it wrote the lock."""
    import psutil

    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if told["machine"] != platform.node():
        return told  # from here nobody can see whether it lives
    try:
        began = psutil.Process(told["process"]).create_time()
    except psutil.NoSuchProcess:
        return None
    return told if began == told["began"] else None  # numbers of processes are given again


def _myself() -> dict[str, Any]:
    import psutil

    return {
        "process": os.getpid(),
        "machine": platform.node(),
        "began": psutil.Process().create_time(),
    }
