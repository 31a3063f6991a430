"""The shelf of control files: what lies in the host's folders, and which file a name means."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath

from controlstack.errors import ControlError
from controlstack.log import log
from controlstack.weights import short_hash, stamp

SUFFIXES = frozenset({".pt", ".pth", ".ckpt", ".safetensors", ".bin"})
_HASH = re.compile(r"\s*\[([0-9a-fA-F]{8})\]$")


class Catalog:
    """The control files of some folders. Of two with the same stem, in any case, the first one counts."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._hashes: dict[tuple[Path, int, int], str] = {}
        self._files: dict[str, tuple[str, Path]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look at the folders again. Whoever reads meanwhile sees the old list or the new one."""
        files: dict[str, tuple[str, Path]] = {}
        for path in self._listing():
            key = path.stem.lower()
            if key not in files and key != "none":
                try:
                    files[key] = (f"{path.stem} [{self._hash(path)}]", path)
                except OSError as error:
                    log.warning("%s is left out of the models: %s", path, error)
        self._files = dict(sorted(files.items()))

    def names(self) -> list[str]:
        """What people choose from: "stem [hash]", sorted."""
        return [name for name, _ in self._files.values()]

    def name(self, path: Path) -> str:
        """What people call a file of this catalog: "stem [hash]"."""
        return self._files[path.stem.lower()][0]

    def find(self, name: str) -> Path:
        """The file that a name means.

        With the hash, without, or with an old one; in any case; with suffix or subfolder; or only a part of
        it, which means the shortest stem that contains it. Raises ControlError with near names.
        """
        files, (stem, given) = self._files, _parse(name)
        contain = sorted((key for key in files if stem and stem in key), key=len)
        key = next((key for key in (name.strip().lower(), stem, *contain) if key in files), None)
        if key is None:
            raise self._unknown(name, stem)
        found, path = files[key]
        if given and not found.lower().endswith(f"[{given}]"):
            log.warning("%r is not here with that hash; using %s.", name, found)
        return path

    def _unknown(self, name: str, stem: str) -> ControlError:
        near = [self._files[key][0] for key in get_close_matches(stem, self._files, n=3)]
        folders = ", ".join(map(str, self.folders)) or "no folder"
        return ControlError(
            f"There is no control model called {name!r}",
            f"Looked in {folders}",
            f"Did you mean {' or '.join(near)}?"
            if near
            else "Put the file there and refresh the list of models",
        )

    def _hash(self, path: Path) -> str:
        key = stamp(path)
        if key not in self._hashes:
            self._hashes[key] = short_hash(path)
        return self._hashes[key]

    def _listing(self) -> Iterator[Path]:
        """All model files, folder by folder; people link folders and files, a loop of links ends."""
        seen: set[Path] = set()
        for folder in self.folders:
            for parent, below, names in os.walk(folder, followlinks=True):
                below[:] = sorted(name for name in below if Path(parent, name).resolve() not in seen)
                seen.add(Path(parent).resolve())
                paths = (Path(parent, name) for name in sorted(names))
                yield from (path for path in paths if path.suffix.lower() in SUFFIXES)


def _parse(name: str) -> tuple[str, str]:
    """The lower-cased stem and hash in what someone calls a model; either may be empty."""
    tag = _HASH.search(name.strip())
    bare = PureWindowsPath(_HASH.sub("", name.strip()))  # takes / and \ alike
    stem = bare.stem if bare.suffix.lower() in SUFFIXES else bare.name
    return stem.lower(), tag.group(1).lower() if tag else ""
