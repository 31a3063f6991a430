"""Weights of preprocessors: found where people put them, else downloaded once from the Hugging Face hub."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path, PurePosixPath
from threading import Event, Thread
from typing import Any

from controlstack.errors import ControlError
from controlstack.packages import bring
from controlstack.progress import tell

HUB = "https://huggingface.co"
PARTIAL = ".partial"
"""Below the folder of downloads: what is not complete yet. It is resumed, and never taken for weights."""
_EXTENSION = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class File:
    """One file of weights, as its room declares it.

    repository: on the hub, "owner/name"; `space` says that it is a Space
    path: in the repository
    folder: where the incumbent and Forge keep it, below their folders of preprocessors
    licence: of the weights; "non-commercial" ones are used when the user has put them there, never downloaded
    sha256, size: as published, in hex digits and bytes; None where nobody published them
    revision: commit, branch or tag
    saved_as: its name on disk, where that is not the one in the repository
    """

    repository: str
    path: str
    folder: str
    licence: str
    sha256: str | None = None
    size: int | None = None
    revision: str = "main"
    space: bool = False
    placed_by_user: bool = False
    saved_as: str = ""

    @property
    def name(self) -> str:
        """What the file is called on disk."""
        return self.saved_as or PurePosixPath(self.path).name

    @property
    def source(self) -> str:
        """Where people find it with a browser."""
        kind = "spaces/" if self.space else ""
        return f"{HUB}/{kind}{self.repository}/blob/{self.revision}/{self.path}"


def folders(models: Path, chosen: Path | None = None) -> list[Path]:
    """Where weights of preprocessors lie; downloads go into the first.

    models: the host's folder of models, in which Forge has ControlNetPreprocessor, and insightface
    chosen: what the user set (`control_net_modules_path`, `--controlnet-annotator-models-path`)
    """
    return [
        *([chosen] if chosen else []),
        models / "ControlNetPreprocessor",
        _EXTENSION / "annotator" / "downloads",
        _EXTENSION.parent / "sd-webui-controlnet" / "annotator" / "downloads",
        models,
    ]


class Store:
    """The weights in some folders. Downloads go into the first, unless `offline`."""

    def __init__(self, folders: Sequence[Path] = (), *, offline: bool = False) -> None:
        self.folders = tuple(folders) or (_EXTENSION / "annotator" / "downloads",)
        self.offline = offline

    def place(self, file: File) -> Path:
        """Where a download of this file ends up."""
        return self.folders[0] / file.folder / file.name

    def find(self, file: File) -> Path | None:
        """The file where it lies already: in its own subfolder, beside it, or as controlnet_aux keeps it."""
        subfolders = (file.folder, ".", file.repository)
        paths = (folder / sub / file.name for folder in self.folders for sub in subfolders)
        return next((path for path in paths if path.is_file()), None)

    def get(self, file: File) -> Path:
        """The file, downloaded if it is not there. Raises ControlError naming file, source and folder.

        Two who ask at once, also from two processes, get one download.
        """
        if found := self.find(file):
            return found
        if error := self.fault(file):
            raise error
        with _one_at_a_time(self.place(file)):
            return self.find(file) or self._download(file)

    def fetched(self, file: File) -> int:
        """How many bytes of a file are here while it is being downloaded."""
        return _fetched(self.folders[0] / PARTIAL / file.name)

    def fault(self, file: File) -> ControlError | None:
        """Why a file that is not there cannot be had; None for one that is there or can be downloaded."""
        if self.find(file):
            return None
        if file.placed_by_user:
            return self._lacking(file, f"Its licence ({file.licence}) leaves the choice to you")
        if self._is_offline():
            return self._lacking(file, "Downloads are switched off (HF_HUB_OFFLINE)")
        return None

    def verify(self, file: File, path: Path) -> str | None:
        """What is wrong with the content of a file, None if it is as published."""
        return _difference(path, file.size, file.sha256)

    def _is_offline(self) -> bool:
        switch = os.environ.get("HF_HUB_OFFLINE", os.environ.get("TRANSFORMERS_OFFLINE", ""))
        return self.offline or switch.upper() in {"1", "ON", "YES", "TRUE"}

    def _download(self, file: File) -> Path:
        place, partial = self.place(file), self.folders[0] / PARTIAL / file.name
        try:
            with _progress(file, partial):
                fetched, size, digest = _fetch(file, partial)
        except ControlError:
            raise
        except Exception as error:  # the hub's, its HTTP library's or the system's: each has others
            raise self._failed(file, error) from error
        if wrong := _difference(fetched, file.size or size, file.sha256 or digest):
            _forget(partial)
            raise self._lacking(file, f"What was downloaded is damaged: {wrong}. It was thrown away")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            fetched.replace(place)
        except OSError as error:
            raise self._failed(file, error) from error
        finally:
            _forget(partial)
        tell(f"{file.name} is in {place.parent}.")
        return place

    def _failed(self, file: File, error: Exception) -> ControlError:
        said = " ".join(str(error).split()) or type(error).__name__
        return self._lacking(file, f"The download failed: {said[:300]}")

    def _lacking(self, file: File, why: str) -> ControlError:
        return ControlError(
            f"The weights {file.name} are not here",
            why,
            f"Download them from {file.source} and put them into {self.place(file).parent}",
        )


def _fetch(file: File, partial: Path) -> tuple[Path, int | None, str | None]:
    """Download into the hub's cache layout below `partial`; with the size and sha256 that the hub states."""
    hub = bring("huggingface_hub")
    endpoint = os.environ.get("HF_ENDPOINT") or None
    where: dict[str, Any] = dict(
        repo_id=file.repository,
        filename=file.path,
        revision=file.revision,
        repo_type="space" if file.space else "model",
        endpoint=endpoint,
    )
    stated = hub.get_hf_file_metadata(hub.hf_hub_url(**where))
    etag = (stated.etag or "").strip('"')
    fetched = Path(hub.hf_hub_download(cache_dir=partial, **where)).resolve()
    return fetched, stated.size, etag if re.fullmatch("[0-9a-f]{64}", etag) else None


def _fetched(partial: Path) -> int:
    """Bytes of the incomplete download in a folder."""
    sizes = (path.stat().st_size for path in partial.rglob("*.incomplete") if path.is_file())
    return max(sizes, default=0)


def _forget(partial: Path) -> None:
    """Remove a folder of incomplete downloads, and the one around it when that is empty."""
    shutil.rmtree(partial, ignore_errors=True)
    if not any(partial.parent.iterdir()):
        partial.parent.rmdir()


def _difference(path: Path, size: int | None, digest: str | None) -> str | None:
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found:,} bytes, not {size:,}"
    if digest is None:
        return None
    hashed = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hashed.update(block)
    return None if hashed.hexdigest() == digest else f"its sha256 is {hashed.hexdigest()}, not {digest}"


@contextmanager
def _one_at_a_time(place: Path) -> Iterator[None]:
    """Held by one thread of one process for each place."""
    digest = blake2b(os.fsencode(place), digest_size=8).hexdigest()
    lock = Path(tempfile.gettempdir()) / f"controlstack-{digest}.lock"
    with bring("filelock").FileLock(lock):
        yield


@contextmanager
def _progress(file: File, partial: Path, every: float = 5.0) -> Iterator[None]:
    """Tells how far a download has come, `every` so many seconds."""
    done = Event()

    def watch() -> None:
        while not done.wait(every):
            fetched = _fetched(partial)
            tell(f"{file.name}: {fetched >> 20} MB", fetched / file.size if file.size else None)

    size = f", {file.size / 1e6:.1f} MB" if file.size else ""
    tell(f"Downloading {file.name}{size}, from {file.source}")
    watcher = Thread(target=copy_context().run, args=(watch,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
