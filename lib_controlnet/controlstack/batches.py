"""A job painted once for each picture of a folder: which picture each unit looks at in which round."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from PIL import Image, ImageOps

from controlstack.errors import ControlError
from controlstack.image import FORMATS, Array
from controlstack.unit import ControlNetUnit, InputMode

_ENDINGS = {f".{kind.lower()}" for kind in (*FORMATS, "jpg")}


class _Painted(Protocol):
    """A finished picture, as hosts keep it."""

    info: dict[str, str]

    def save(self, fp: Path, *, pnginfo: object) -> None: ...


@dataclass(frozen=True)
class Series:
    """The rounds of one job.

    units: what is enabled, each with its place on the page
    batches: of the host's in each round
    """

    units: Sequence[tuple[int, ControlNetUnit]]
    batches: int = 1
    _result: dict[int, Array] = field(default_factory=dict)

    @cached_property
    def rounds(self) -> int:
        """As many as the shortest folder has pictures; 1 where no unit brings a folder. Raises ControlError
        for a folder that cannot be read."""
        return min((len(_files(i, unit)) for i, unit in self._in_batch), default=1)

    @property
    def _in_batch(self) -> list[tuple[int, ControlNetUnit]]:
        return [(i, unit) for i, unit in self.units if unit.input_mode is InputMode.BATCH]

    def at(self, turn: int) -> list[tuple[int, ControlNetUnit]]:
        """The units as they are in a round, each with its picture. Raises ControlError, naming the unit, for
        a file that is none."""
        return [(i, self._turned(i, unit, turn)) for i, unit in self.units]

    def keep(self, turn: int, picture: Array) -> None:
        """A picture of this round, uint8 "H W 3". In the next round units on loopback look at its first."""
        if turn not in self._result:
            self._result.clear()
            self._result[turn] = picture

    def _turned(self, index: int, unit: ControlNetUnit, turn: int) -> ControlNetUnit:
        if unit.loopback and turn - 1 in self._result:
            return replace(unit, image=self._result[turn - 1], mask=None)
        if unit.input_mode is not InputMode.BATCH:
            return unit
        masks = _folder(index, unit.batch_mask_dir) if unit.batch_mask_dir else []
        return replace(
            unit,
            image=_read(index, _files(index, unit)[turn]),
            mask=_read(index, masks[turn % len(masks)]) if masks else unit.mask,
        )

    def save(self, pictures: Sequence[_Painted]) -> None:
        """Save the job's pictures, in the order they were painted, under the names of the files that the
        last unit with a folder looked at, where that unit says: "name.png", "name-1.png" …"""
        from PIL.PngImagePlugin import PngInfo

        index, unit = self._in_batch[-1]
        if not unit.output_dir:
            return
        folder = Path(unit.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        files = _files(index, unit)
        each = -(-len(pictures) // self.rounds)
        for place, picture in enumerate(pictures):
            turn, nth = divmod(place, each)
            file = files[turn]
            stem = file.stem if isinstance(file, Path) else f"{turn:05}"
            text = PngInfo()
            if "parameters" in picture.info:
                text.add_text("parameters", picture.info["parameters"])
            picture.save(folder / (f"{stem}-{nth}.png" if nth else f"{stem}.png"), pnginfo=text)


def _files(index: int, unit: ControlNetUnit) -> Sequence[object]:
    """What a unit's batch consists of: the pictures of a folder, or those that it lists."""
    given = unit.batch_images
    listed: Sequence[object] = (
        _folder(index, given) if isinstance(given, str) else [_path(one) for one in _list(given)]
    )
    if not listed:
        raise ControlError(
            "Its batch has no pictures",
            f"{given!r} holds none of {', '.join(FORMATS)}" if given else "No folder and no files are given",
            "Name a folder with pictures, upload some, or use a single picture",
        ).in_unit(index)
    return listed


def _list(given: object) -> Sequence[object]:
    return given if isinstance(given, (list, tuple)) else []


def _path(one: object) -> object:
    return Path(one) if isinstance(one, str) else one


def _folder(index: int, name: str) -> list[Path]:
    """Its pictures by name, numbers in names by their value."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ControlError(
            f"There is no folder {name!r}", "", "Give the path of a folder on the WebUI's machine"
        ).in_unit(index)
    files = (file for file in folder.iterdir() if file.suffix.lower() in _ENDINGS)
    return sorted(files, key=lambda file: [(p.isdigit(), p.zfill(20)) for p in re.split(r"(\d+)", file.name)])


def _read(index: int, file: object) -> object:
    """A file's picture, upright; anything else is a picture already."""
    if not isinstance(file, Path):
        return file
    try:
        with Image.open(file, formats=FORMATS) as stored:
            return ImageOps.exif_transpose(stored).convert("RGBA" if "A" in stored.mode else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ControlError(
            f"{file.name} cannot be read",
            f"It is damaged, or none of {', '.join(FORMATS)}",
            "Take it out of the folder",
        ).in_unit(index) from error
