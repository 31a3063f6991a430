"""Settings: declared by extensions, changed by jobs, with a default until then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class OptionInfo:
    """A setting as A1111 declares it; `section` is (id, title)."""

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


class Options:
    """`opts.key` is the value that was set, or else the declared default; `data` holds only what was set."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.data_labels: dict[str, OptionInfo] = {}

    def add_option(self, key: str, info: OptionInfo) -> None:
        self.data_labels[key] = info

    def set(self, key: str, value: Any) -> bool:
        """Set a value; whether that changed anything."""
        changed = key not in self.data or self.data[key] != value
        self.data[key] = value
        return changed

    def __getattr__(self, key: str) -> Any:
        if key in self.data:
            return self.data[key]
        if key in self.data_labels:
            return self.data_labels[key].default
        raise AttributeError(f"There is no setting called {key!r}")
