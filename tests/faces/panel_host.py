"""A host with settings, folders of models and a loaded checkpoint, which generates nothing, for tests of the
panel; and model files that hold what published ones hold, but for their numbers."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from controlstack.hosts.webui import WebUI
from controlstack.layout import Base

HEADERS = Path(__file__).parents[1] / "families" / "headers"
SD1 = Base(width=320, context=768, vector=None, blocks=12)
SDXL = Base(width=320, context=2048, vector=2816, blocks=9)


class PanelHost(WebUI):
    """checkpoint_base: what the loaded checkpoint is, None while none is loaded"""

    def __init__(self, folder: Path, checkpoint_base: Base | None = SD1, **options: Any) -> None:
        self.folder, self.options, self.checkpoint_base = folder, options, checkpoint_base
        self._lock = threading.RLock()
        super().__init__()

    @property
    def lock(self) -> AbstractContextManager[Any]:
        return self._lock

    def option(self, key: str, default: object) -> Any:
        return self.options.get(key, default)

    def flag(self, key: str) -> Any:
        return None

    def model_folders(self) -> Sequence[Path]:
        return [self.folder / "models"]

    def data_path(self) -> Path:
        return self.folder

    def checkpoint(self) -> Any:
        return self.checkpoint_base and SimpleNamespace(base=self.checkpoint_base)

    def base(self, p: Any) -> Base:
        return p.sd_model.base

    def services(self, p: Any) -> Any:
        raise NotImplementedError("nothing is generated here")

    attach = services


def model(folder: Path, stem: str, header: str) -> Path:
    """A file of one of the published layouts, its numbers a hole in the file system."""
    stored = json.loads(gzip.decompress((HEADERS / f"{header}.json.gz").read_bytes()))
    shapes, end, entries = stored.get("shapes", stored), 0, {}
    for name, shape in shapes.items():
        size = 1
        for side in shape:
            size *= side
        entries[name] = {"dtype": "I8", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    path = folder / "models" / f"{stem}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path
