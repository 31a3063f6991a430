"""The shelf of families: which kind of control weights a file holds, and how that kind is put to work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import ClassVar, Protocol

from torch import Tensor, nn

from controlstack import rooms
from controlstack.errors import ControlError
from controlstack.joints import Call, Residuals, Services
from controlstack.layout import Base
from controlstack.weights import Header


class Control(Protocol):
    """One unit in one sampling pass: returns what it would add and adds nothing itself."""

    def residuals(self, call: Call) -> Residuals:
        """The unweighted residuals for every row of `call`."""


@dataclass(frozen=True)
class Match:
    """What a family says of a file of its own.

    base: what the checkpoint must be
    layers: how many per-layer weights a unit may give
    of_checkpoint: the network is made of the checkpoint's weights too, and only good for that checkpoint
    cond_only: acts on the rows of the positive prompt only, in every control mode
    detail: the family's own reading of the file
    """

    family: Family
    header: Header
    base: Base
    layers: int
    of_checkpoint: bool = False
    cond_only: bool = False
    detail: object = field(default=None, repr=False)


class Family(ABC):
    """A kind of control weights. One file in `families/` defines one and calls `register`."""

    name: ClassVar[str]

    @abstractmethod
    def match(self, header: Header) -> Match | None:
        """Whether a file is of this kind, by tensor names and shapes; None if not.

        Raises ControlError for a file that is of this kind but broken.
        """

    @abstractmethod
    def load(self, match: Match, services: Services) -> nn.Module:
        """The file's network on the host's device, in its dtype: shared by units and never changed again."""

    @abstractmethod
    def begin(self, model: nn.Module, match: Match, hint: Tensor) -> Control:
        """Start a pass with the hint "1 3 H W" (px, 0..1, or -1 where an inpaint hint is masked)."""


_families: dict[str, Family] = {}


def register(family: Family) -> None:
    """Put a family on the shelf; a later one of the same name takes its place."""
    _families[family.name] = family


def exists(name: str) -> bool:
    """Whether there is a family of this name."""
    _load_rooms()
    return name in _families


@cache
def _load_rooms() -> dict[str, Exception]:
    return rooms.load(import_module("controlstack.families"))


def recognise(header: Header) -> Match:
    """The family of a file, whatever it is called. Raises ControlError for a file of no known family."""
    broken = _load_rooms()
    for family in _families.values():
        if match := family.match(header):
            return match
    why = f"None of the known kinds ({', '.join(sorted(_families))}) has tensors of these names and shapes"
    if broken:
        why += f"; not loaded: {', '.join(sorted(broken))}"
    raise ControlError(
        f"The file {header.path.name} is no control model that this extension knows",
        why,
        "Choose another model, or check that the download is complete",
    )
