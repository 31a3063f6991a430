"""The extensions that the host runs: the folders with a `scripts/` or a `preload.py` of their own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Extension:
    """An extension by its folder, with A1111's names."""

    name: str
    path: str
    enabled: bool = True
    is_builtin: bool = False


extensions: list[Extension] = []
"""In the order in which they load."""


def active() -> list[Extension]:
    """Those whose scripts run."""
    return [extension for extension in extensions if extension.enabled]
