"""Settings: declared by the host and extensions, changed by jobs and programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlstack.log import log


@dataclass
class OptionInfo:
    """A setting as A1111 declares it; `section` is (id, title); `restrict_api` hides it from programs."""

    default: Any = None
    label: str = ""
    component: Any = None
    component_args: Any = None
    onchange: Any = None
    section: tuple[str | None, str] = (None, "Uncategorized")
    refresh: Any = None
    infotext: str | None = None
    restrict_api: bool = False

    def info(self, text: str) -> OptionInfo:
        """Explain the setting on its page."""
        self.label += f" ({text})"
        return self

    def needs_restart(self) -> OptionInfo:
        return self.info("needs a restart")

    def needs_reload_ui(self) -> OptionInfo:
        return self.info("needs a reload of the page")

    def takes(self, value: Any) -> bool:
        """Whether the value is of the default's kind; an integer is also a fraction."""
        kinds = (float, int) if isinstance(self.default, float) else type(self.default)
        flag = isinstance(value, bool) == isinstance(self.default, bool)
        return self.default is None or (isinstance(value, kinds) and flag)


class Options:
    """`opts.key` is the value that was set, or else the declared default; `data` holds only what was set."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.data_labels: dict[str, OptionInfo] = {}

    def add_option(self, key: str, info: OptionInfo) -> None:
        self.data_labels[key] = info

    def set(self, key: str, value: Any, is_api: bool = False, run_callbacks: bool = True) -> bool:
        """Set a value; whether that changed anything. Programs cannot change what is hidden from them.

        Raises KeyError for a setting that nobody declared, ValueError for a value of another kind.
        """
        info = self.data_labels[key]
        if is_api and info.restrict_api:
            return False
        if not info.takes(value):
            raise ValueError(f"The setting {key} is {info.default!r} by default and cannot be {value!r}")
        changed = bool(getattr(self, key) != value)
        self.data[key] = value
        if changed and run_callbacks and info.onchange is not None:
            info.onchange()
        return changed

    def save(self, filename: str | Path) -> None:
        """Write what was set to a file."""
        Path(filename).write_text(json.dumps(self.data, indent=4, ensure_ascii=False), encoding="utf-8")

    def load(self, filename: str | Path) -> None:
        """Take what was set from a file, if there is one; one that cannot be read is told and left alone."""
        file = Path(filename)
        if not file.is_file():
            return
        try:
            self.data = dict(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            log.warning("The settings in %s cannot be read and are left alone: %s", file.name, error)

    def is_restricted(self, key: str) -> bool:
        """Whether programs cannot change it."""
        return key in self.data_labels and self.data_labels[key].restrict_api

    def dumps(self) -> dict[str, Any]:
        """Every setting with its value, but those hidden from programs."""
        defaults = {key: info.default for key, info in self.data_labels.items()}
        return {key: value for key, value in (defaults | self.data).items() if not self.is_restricted(key)}

    def __getattr__(self, key: str) -> Any:
        if key in self.data:
            return self.data[key]
        if key in self.data_labels:
            return self.data_labels[key].default
        raise AttributeError(f"There is no setting called {key!r}")
