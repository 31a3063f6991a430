"""Files that are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside `path` to write a file or a folder, which becomes `path` when all is on the disk.

    A file that is there is replaced in one go; a folder of this name must not be there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    yield unfinished
    written = [unfinished, *unfinished.rglob("*")] if unfinished.is_dir() else [unfinished]
    for file in written:
        if file.is_file():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
    unfinished.replace(path)
