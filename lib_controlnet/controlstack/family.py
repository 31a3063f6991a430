"""The shelf of families: which kind of control weights a file holds, and how that kind is put to work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import ClassVar

from torch import Tensor, nn

from controlstack import rooms
from controlstack.errors import ControlError
from controlstack.image import Array
from controlstack.joints import Call, Control, Services
from controlstack.layout import Base
from controlstack.preprocess import Embedding
from controlstack.unit import ControlNetUnit
from controlstack.weights import Header


@dataclass(frozen=True)
class Match:
    """What a family says of a file of its own, or of a checkpoint if it needs no file.

    header: the file, None for a family that acts without one
    base: what the checkpoint must be
    layers: how many per-layer weights a unit may give, None if it may give none
    of_checkpoint: the network is made of the checkpoint's weights too, and only good for that checkpoint
    cond_only: acts on the rows of the positive prompt only, in every control mode
    embeddings: reads what `Preprocessor.embed` makes, not a map
    own_weight: reads the unit's weight itself, as something else than a factor; for the schedule it is then 1
        wherever it is not 0
    preprocessor: the one that the network was made with, by name, for a unit that leaves the choice to it
    lora: the LoRA that the network was trained with, by its published name
    detail: the family's own reading of the file
    """

    family: Family
    header: Header | None
    base: Base
    layers: int | None = None
    of_checkpoint: bool = False
    cond_only: bool = False
    embeddings: bool = False
    own_weight: bool = False
    preprocessor: str = ""
    lora: str = ""
    detail: object = field(default=None, repr=False)


class KnowsFace(Control):
    """A control that may know a person, as InstantID's ControlNet has to."""

    def face(self, call: Call) -> Tensor | None:
        """Tokens "R N D" of the person, which that ControlNet reads in place of the prompt; None if it knows
        none."""


@dataclass(frozen=True)
class Start:
    """What a family begins a sampling pass with.

    model: the file's network; for a family without a file an empty module
    hint: "1 3 H W" at the size of the pass, px, 0..1, or -1 where an inpaint hint is masked
    map: the same as the preprocessor made it, uint8 "H W 3", or "H W 4" with the mask behind the colours
    unit: what the user asked for, in this pass
    seed: of the job
    unprompted: whether the job has neither a prompt nor a negative one
    embeddings: one for each of the unit's pictures, for families that read them
    fellows: all controls of the pass in the order of the units; those behind this one are not there yet
    """

    model: nn.Module
    match: Match
    hint: Tensor
    map: Array
    unit: ControlNetUnit
    services: Services
    hires: bool = False
    seed: int = 0
    unprompted: bool = False
    embeddings: tuple[Embedding, ...] = ()
    fellows: Sequence[Control] = ()


class Family(ABC):
    """A kind of control. One file in `families/` defines one and calls `register`.

    Most kinds are told by their weights. One that has none is a companion of preprocessors, by name.
    """

    name: ClassVar[str]

    def match(self, header: Header) -> Match | None:
        """Whether a file is of this kind, by tensor names and shapes; None if not.

        Raises ControlError for a file that is of this kind but broken.
        """
        return None

    def beside(self, base: Base) -> Match | None:
        """The match of a family that acts without a file, on a checkpoint; None where it has nothing to do.
        Raises ControlError if it cannot act on such a one."""
        return Match(self, None, base)

    def load(self, match: Match, services: Services) -> nn.Module:
        """The file's network on the host's device, in its dtype: shared by units and never changed again."""
        return nn.Identity()

    @abstractmethod
    def begin(self, start: Start) -> Control:
        """Start a pass: do once what the hint alone decides."""


_families: dict[str, Family] = {}


def register(family: Family) -> None:
    """Put a family on the shelf; a later one of the same name takes its place."""
    _families[family.name] = family


def called(name: str) -> Family | None:
    """The family of this name."""
    _load_rooms()
    return _families.get(name)


def everything() -> list[Family]:
    """All families."""
    _load_rooms()
    return list(_families.values())


@cache
def _load_rooms() -> dict[str, Exception]:
    return rooms.load(import_module("controlstack.families"))


def recognise(header: Header) -> Match:
    """The family of a file, whatever it is called. Raises ControlError for a file of no known family."""
    broken = _load_rooms()
    for family in _families.values():
        if match := family.match(header):
            return match
    known = sorted(name for name, kind in _families.items() if type(kind).match is not Family.match)
    why = f"None of the known kinds ({', '.join(known)}) has tensors of these names and shapes"
    if broken:
        why += f"; not loaded: {', '.join(sorted(broken))}"
    raise ControlError(
        f"The file {header.path.name} is no control model that this extension knows",
        why,
        "Choose another model, or check that the download is complete",
    )
