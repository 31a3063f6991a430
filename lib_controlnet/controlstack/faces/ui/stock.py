"""What there is to choose from on this host, and what is known of it without asking twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from time import monotonic
from types import SimpleNamespace

from controlstack import control_types, family, preprocess
from controlstack.control_types import ControlType
from controlstack.errors import ControlError
from controlstack.family import Match
from controlstack.hosts.webui import WebUI
from controlstack.layout import Base
from controlstack.preprocess import Preprocessor
from controlstack.weights import read_header, stamp

LOOK = 0.08
"""Seconds that an event may spend on files nobody has looked into yet; the next one goes on."""


class Stock:
    """The preprocessors, models and control types of a host."""

    def __init__(self, host: WebUI) -> None:
        self.host = host
        self._known: dict[tuple[Path, int, int], Match | ControlError] = {}
        self._lock = Lock()

    def base(self) -> Base | None:
        """What the loaded checkpoint is; None while there is none, or where it is of an unknown kind."""
        checkpoint = self.host.checkpoint()
        if checkpoint is None:
            return None
        try:
            return self.host.base(SimpleNamespace(sd_model=checkpoint))
        except (ControlError, AttributeError):  # hosts leave placeholders while they load
            return None

    def sign(self) -> str:
        """Another one whenever there is something else to choose from: another checkpoint, or other files."""
        return repr((self.base(), self.host.catalog.names()))

    def control_type(self, name: str) -> ControlType:
        """A control type with its preprocessors, and those of its models that fit the loaded checkpoint.

        A file that nobody has looked into yet is offered. A name that is none stands for all.
        """
        types = {kind.name: kind for kind in control_types.everything(self.host.catalog.names())}
        found = types.get(name, types[control_types.ALL])
        return ControlType(
            found.name, found.preprocessors, (control_types.NONE, *self._fitting(found.models[1:]))
        )

    def control_types(self) -> tuple[str, ...]:
        """The names of all, "All" first."""
        return tuple(kind.name for kind in control_types.everything(()))

    def refresh(self) -> None:
        """Look at the folders of models again."""
        self.host.catalog.refresh()

    def match(self, model: str) -> Match | None:
        """What a model's file holds; None for no model. Raises ControlError for one that is not there or is
        no control model."""
        if not model or model == control_types.NONE:
            return None
        found = self._look(self.host.catalog.find(model))
        if isinstance(found, ControlError):
            raise found
        return found

    def fault(self, preprocessor: Preprocessor) -> ControlError | None:
        """Why a preprocessor cannot run here."""
        return preprocess.unavailable(preprocessor, self.host.cache.networks)

    def _fitting(self, names: Sequence[str]) -> list[str]:
        base = self.base()
        if base is None:
            return list(names)
        family.everything()  # loaded before the clock runs
        end = monotonic() + LOOK
        return [name for name in names if self._may_fit(self.host.catalog.find(name), base, end)]

    def _may_fit(self, path: Path, base: Base, end: float) -> bool:
        if _stamp(path) not in self._known and monotonic() > end:
            return True
        found = self._look(path)
        return isinstance(found, ControlError) or found.base.mismatch(base) is None

    def _look(self, path: Path) -> Match | ControlError:
        key = _stamp(path)
        with self._lock:
            if key not in self._known:
                try:
                    self._known[key] = family.recognise(read_header(path))
                except ControlError as error:
                    self._known[key] = error
            return self._known[key]


def _stamp(path: Path) -> tuple[Path, int, int]:
    """As `weights.stamp`; a file that has gone is one that cannot be read."""
    try:
        return stamp(path)
    except OSError:
        return path, 0, 0
