"""Stacks of units kept by name: one JSON file each, in a folder beside the host's settings and nowhere else.

A preset holds what the API takes of each unit, without pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from controlstack.errors import ControlError
from controlstack.faces.ui import sent
from controlstack.hosts.webui import MAX_UNITS
from controlstack.unit import ControlNetUnit, parse

FOLDER = "controlnet-presets"
MAX_TEXT = 1 << 20
"""Most letters of a preset."""
MAX_NAME = 80
_FORMAT = "controlstack_preset"
_ALSO = " -_()+,'"
"""Allowed in a name beside letters and digits of any language."""


class Presets:
    """The presets in a folder, which is made when the first is saved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """All of them, sorted."""
        files = self.folder.glob("*.json") if self.folder.is_dir() else ()
        return sorted((file.stem for file in files if tidy(file.stem) == file.stem), key=str.casefold)

    def save(self, name: str, text: str) -> str:
        """Keep a preset; one of the same name is replaced. Returns the name that it got."""
        read(text)
        path = self._path(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
        return path.stem

    def load(self, name: str) -> str:
        """The text of a preset. Raises ControlError."""
        try:
            return self._path(name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ControlError(f"The preset {name!r} cannot be read", str(error), "Choose another") from error

    def delete(self, name: str) -> None:
        """Forget a preset; one that is not there is forgotten already."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        kept = tidy(name)
        if not kept:
            raise ControlError("The preset has no name", "", "Give it one, in letters and digits")
        return self.folder / f"{kept}.json"


def tidy(name: str) -> str:
    """A name that is a file's on every system and no path: letters, digits, spaces and a few signs."""
    letters = "".join(letter for letter in str(name) if letter.isalnum() or letter in _ALSO)
    return letters[:MAX_NAME].strip(" '")


def write(units: Sequence[ControlNetUnit]) -> str:
    """The text of a preset, to be kept or shared."""
    told = [sent.as_api(unit, pictures=False) for unit in units]
    return json.dumps({_FORMAT: 1, "units": told}, indent=1, ensure_ascii=False)


def read(text: str) -> list[ControlNetUnit]:
    """The units of a preset. Raises ControlError for anything else."""
    if len(text) > MAX_TEXT:
        raise ControlError("The preset is too long", f"It has {len(text)} letters", f"At most {MAX_TEXT}")
    try:
        given: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ControlError("The preset is no JSON", str(error), "Paste what Share showed") from error
    told = given.get("units") if isinstance(given, dict) and _FORMAT in given else None
    if not isinstance(told, list) or not 0 < len(told) <= MAX_UNITS:
        raise ControlError(
            "That is no preset", f"A preset lists from 1 to {MAX_UNITS} units", "Paste what Share showed"
        )
    units = []
    for place, one in enumerate(told):
        try:
            kept = {k: v for k, v in one.items() if k not in sent.PICTURES} if isinstance(one, dict) else one
            units.append(parse(kept))
        except ControlError as error:
            raise error.in_unit(place) from error
    return units
