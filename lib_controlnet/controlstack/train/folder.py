"""A folder of pictures, hints and captions, and all that is wrong with it, said before training starts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from controlstack import geometry, image, preprocess
from controlstack.errors import ControlError
from controlstack.image import Array
from controlstack.train.samples import CELL
from controlstack.unit import ResizeMode

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PICTURES, HINTS, CAPTIONS, MASKS = "pictures", "hints", "captions", "masks"
LISTED = "metadata.jsonl"
SAID = 20
"""Most faults that are said one by one."""

Size = tuple[int, int]
"""Width and height in px."""


class FolderError(ControlError):
    """A folder that cannot be trained with; `faults` has a sentence for everything that is wrong."""

    def __init__(self, folder: Path, faults: list[str]) -> None:
        self.faults = faults
        super().__init__(f"The folder {folder} cannot be trained with")

    def __str__(self) -> str:
        more = len(self.faults) - SAID
        lines = [*self.faults[:SAID], *([f"And {more} more like these."] if more > 0 else [])]
        return "\n- ".join([f"{self.what}:", *lines])


@dataclass(frozen=True)
class Entry:
    """The files of one example."""

    picture: Path
    caption: str
    hint: Path | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class Hints:
    """Hints made from the pictures: a preprocessor with the numbers it is asked with, -1 for its own."""

    preprocessor: preprocess.Preprocessor
    resolution: float = -1
    a: float = -1
    b: float = -1
    _cache: preprocess.Cache = field(default_factory=lambda: preprocess.Cache(1), repr=False, compare=False)

    def make(self, picture: Array, mask: Array | None, seed: int) -> Array:
        """A map of the picture's size, at the picture's own resolution unless another one was asked for."""
        height, width = picture.shape[:2]
        resolution = self.resolution if self.resolution > 0 else min(height, width)
        ask = self.preprocessor.ask(resolution, self.a, self.b, mask=mask, seed=seed)
        return geometry.fit(
            self._cache.run(self.preprocessor, picture, ask), width, height, ResizeMode.RESIZE
        )


class Folder:
    """The examples of a folder, in the order of their names; see `samples.Example`."""

    def __init__(self, root: Path, entries: list[Entry], size: Size, made: Hints | None) -> None:
        self._root, self._entries, self._size, self._made = root, entries, size, made

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        entry = self._entries[index]
        stored = picture = read(entry.picture)
        if stored.shape[1::-1] != self._size:
            picture = geometry.resample(stored, *self._size, ResizeMode.INNER_FIT)
        example = {"picture": _tensor(picture), "caption": entry.caption}
        example["hint"] = self._hint(entry, picture, index)
        example["size"] = torch.tensor(_conditioning(stored.shape[:2], self._size))
        return example

    def part(self, first: int, last: int | None) -> Folder:
        """The examples from `first` to just before `last`."""
        return Folder(self._root, self._entries[first:last], self._size, self._made)

    @property
    def size(self) -> Size:
        """Of all pictures and hints as they are trained with."""
        return self._size

    @property
    def fingerprint(self) -> str:
        """Changes when a file or a caption does, or how they are read."""
        made = self._made and (
            self._made.preprocessor.name,
            self._made.resolution,
            self._made.a,
            self._made.b,
        )
        digest = sha256(repr((self._size, made)).encode())
        for entry in self._entries:
            for path in filter(None, (entry.picture, entry.hint, entry.mask)):
                digest.update(f"{path.relative_to(self._root)} {path.stat().st_size}\n".encode())
            digest.update(f"{entry.caption}\n".encode())
        return digest.hexdigest()

    def _hint(self, entry: Entry, picture: Array, index: int) -> Tensor:
        if entry.hint is not None:
            return _tensor(geometry.fit(read(entry.hint), *self._size, ResizeMode.INNER_FIT))
        mask = None
        if entry.mask is not None:
            mask = geometry.fit(read(entry.mask), *self._size, ResizeMode.INNER_FIT)[:, :, 0]
        found = cast(Hints, self._made).make(picture, mask, index)
        return image.hint(found)[0] if found.shape[2] == 4 else _tensor(found)


def load(folder: Path, made: Hints | None = None, size: Size | None = None, *, crop: bool = False) -> Folder:
    """The folder's examples.

    made: make the hints, instead of reading them
    size: of all pictures; None takes that of most
    crop: scale and cut pictures of other sizes, instead of refusing them
    Raises FolderError with a sentence for each thing that is wrong with it. Every file is read once for this.
    """
    if not folder.is_dir():
        raise ControlError(f"There is no folder {folder}")
    faults: list[str] = []
    has_list = (folder / LISTED).is_file()
    entries = list((_listed if has_list else _found)(folder, made, faults))
    if not entries and not faults:
        where = LISTED if has_list else f"{PICTURES}/"
        faults.append(f"{where} has no pictures ({', '.join(ENDINGS)}).")
    with ThreadPoolExecutor(4) as threads:
        measured = list(threads.map(_measure, entries))
    readable = [(entry, sizes) for entry, (sizes, wrong) in zip(entries, measured, strict=True) if not wrong]
    faults += [fault for _, wrong in measured for fault in wrong]
    if readable:
        size = size or Counter(sizes[0] for _, sizes in readable).most_common(1)[0][0]
        faults += _wrong_sizes(readable, size, folder, crop=crop)
    if not faults and size is not None:
        found = Folder(folder, entries, size, made)
        faults += _untried(found)
        if not faults:
            return found
    raise FolderError(folder, [fault.replace(f"{folder}/", "") for fault in faults])


def read(path: Path) -> Array:
    """A picture file, upright, "H W 3" RGB. Raises OSError, ValueError or the like for a broken one."""
    with Image.open(path) as stored:
        return image.inputs(ImageOps.exif_transpose(stored))[0].rgb


def _found(folder: Path, made: Hints | None, faults: list[str]) -> Iterator[Entry]:
    """The examples of the folders `pictures`, `hints`, `captions` and `masks`, matched by name."""
    pictures = _by_stem(folder / PICTURES, ENDINGS, faults)
    captions = _by_stem(folder / CAPTIONS, (".txt",), faults)
    hints = {} if made else _by_stem(folder / HINTS, ENDINGS, faults)
    masks = _by_stem(folder / MASKS, ENDINGS, faults) if _wants_masks(made) else {}
    for kind, files in ((CAPTIONS, captions), (HINTS, hints), (MASKS, masks)):
        faults += [
            f"{kind}/{files[stem].name} has no picture in {PICTURES}/."
            for stem in files.keys() - pictures.keys()
        ]
    for stem, picture in pictures.items():
        missing = []
        if stem not in captions:
            missing.append(f"caption: {CAPTIONS}/{stem}.txt")
        if not made and stem not in hints:
            missing.append(f"hint: {HINTS}/{stem}.png")
        if made and made.preprocessor.requires_mask and stem not in masks:
            missing.append(f"mask: {MASKS}/{stem}.png")
        faults += [f"{PICTURES}/{picture.name} has no {what} is missing." for what in missing]
        caption = _caption(captions[stem], faults) if stem in captions else ""
        if not missing:
            yield Entry(picture, caption, hints.get(stem), masks.get(stem))


def _listed(folder: Path, made: Hints | None, faults: list[str]) -> Iterator[Entry]:
    """The examples of `metadata.jsonl`: an object per line, with paths from the folder on."""
    needed = ["picture", "caption"] + ([] if made else ["hint"])
    if made and made.preprocessor.requires_mask:
        needed.append("mask")
    for number, line in enumerate((folder / LISTED).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"Line {number} of {LISTED}"
        try:
            told = json.loads(line)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            faults.append(f"{where} is no JSON object.")
            continue
        absent = [name for name in needed if not isinstance(told.get(name), str)]
        if absent:
            faults.append(f"{where} has no text for {' and '.join(absent)}.")
            continue
        paths = {
            name: folder / told[name]
            for name in ("picture", "hint", "mask")
            if isinstance(told.get(name), str)
        }
        gone = [name for name, path in paths.items() if not path.is_file()]
        faults += [f"{where} names the {name} {told[name]}, which does not exist." for name in gone]
        if not gone:
            hint = None if made else paths["hint"]
            yield Entry(
                paths["picture"], told["caption"], hint, paths.get("mask") if _wants_masks(made) else None
            )


def _by_stem(folder: Path, endings: Iterable[str], faults: list[str]) -> dict[str, Path]:
    """The files of a folder by their names without the ending; {} if there is no such folder."""
    found: dict[str, Path] = {}
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in files:
        if file.name.startswith(".") or file.suffix.lower() not in endings:
            continue
        if file.stem in found:
            faults.append(f"{folder.name}/ has both {found[file.stem].name} and {file.name}; remove one.")
        found.setdefault(file.stem, file)
    return found


def _caption(file: Path, faults: list[str]) -> str:
    try:
        return " ".join(file.read_text(encoding="utf-8-sig").split())
    except ValueError:
        faults.append(f"{CAPTIONS}/{file.name} is no UTF-8 text.")
        return ""


def _wants_masks(made: Hints | None) -> bool:
    return made is not None and made.preprocessor.accepts_mask


def _measure(entry: Entry) -> tuple[list[Size], list[str]]:
    """The sizes of the picture and of what belongs to it, and a fault for each that cannot be read."""
    sizes, faults = [], []
    for path in filter(None, (entry.picture, entry.hint, entry.mask)):
        try:
            height, width = read(path).shape[:2]
        except (OSError, ValueError, SyntaxError, ControlError, Image.DecompressionBombError) as error:
            faults.append(f"{path} cannot be read: {_reason(error)}.")
        else:
            sizes.append((width, height))
    return sizes, faults


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture, or a damaged one"
    return str(error).strip().rstrip(".") or type(error).__name__


def _wrong_sizes(
    measured: list[tuple[Entry, list[Size]]], size: Size, folder: Path, *, crop: bool
) -> Iterator[str]:
    if size[0] % CELL or size[1] % CELL:
        yield (
            f"The size {_size(size)} cannot be trained with: both sides must be multiples of {CELL} px. "
            "Choose one with --size and --crop."
        )
    for entry, (own, *others) in measured:
        if own != size and not crop:
            yield f"{entry.picture} is {_size(own)} px, not {_size(size)}; --crop would scale and cut it."
        for path, other in zip(filter(None, (entry.hint, entry.mask)), others, strict=True):
            if other != own:
                yield f"{path} is {_size(other)} px, but its picture is {_size(own)}."


def _untried(folder: Folder) -> list[str]:
    """Why the preprocessor cannot make the first hint, if so."""
    try:
        folder[0]
    except ControlError as error:
        return [str(error)]
    return []


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _tensor(picture: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def _conditioning(stored: tuple[int, ...], size: Size) -> list[int]:
    """SDXL's numbers for a picture "H W" that was scaled and cut to a size (Podell et al. 2023, 2.2)."""
    (height, width), (w, h) = stored, size
    scale = max(w / width, h / height)
    return [height, width, (round(scale * height) - h) // 2, (round(scale * width) - w) // 2, h, w]
