"""Weights of preprocessors on the command line: python -m controlstack.models list|fetch|verify [NAME ...]"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from controlstack import preprocess
from controlstack.downloads import File, Store
from controlstack.errors import ControlError


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns 1 if something is missing, damaged or unknown."""
    parser = argparse.ArgumentParser(prog="python -m controlstack.models", description=__doc__)
    parser.add_argument("action", choices=_ACTIONS, help="what to do with the weights")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="preprocessors, by name or label; all if none"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        action="append",
        default=[],
        help="where weights lie, such as models/ControlNetPreprocessor; may be given again; "
        "downloads go into the first",
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    store = Store(given.folder)
    try:
        files = _files(given.names)
    except ControlError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return max((_ACTIONS[given.action](store, file) for file in files), default=0)


def _files(names: Iterable[str]) -> list[File]:
    """The files of these preprocessors, each once, in the shelf's order."""
    asked = [preprocess.find(name) for name in names] or preprocess.everything()
    return list(
        dict.fromkeys(file for preprocessor in asked for file in (*preprocessor.files, *preprocessor.instead))
    )


def _say(file: File, sentence: str) -> None:
    sys.stdout.write(f"{file.folder}/{file.name}: {sentence}\n")


def _list(store: Store, file: File) -> int:
    path, size = store.find(file), f"{file.size / 1e6:,.1f} MB, " if file.size else ""
    _say(file, f"{path or 'not here'} ({size}{file.licence}, {file.source})")
    return 0


def _fetch(store: Store, file: File) -> int:
    try:
        _say(file, str(store.get(file)))
    except ControlError as error:
        _say(file, str(error).removeprefix("ControlNet: "))
        return 1
    return 0


def _verify(store: Store, file: File) -> int:
    path = store.find(file)
    if path is None:
        _say(file, "not here")
        return 0
    wrong = store.verify(file, path)
    known = "as published" if file.sha256 else "its sha256 is not published"
    _say(file, f"{path}: {wrong or known}")
    return int(wrong is not None)


_ACTIONS = {"list": _list, "fetch": _fetch, "verify": _verify}

if __name__ == "__main__":
    sys.exit(main())
