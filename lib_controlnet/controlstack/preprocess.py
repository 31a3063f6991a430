"""The shelf of preprocessors: what turns a picture into a hint, found by name or label."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, wraps
from hashlib import blake2b
from importlib import import_module
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controlstack import packages, rooms
from controlstack import pose as poses
from controlstack.downloads import File
from controlstack.errors import ControlError
from controlstack.geometry import padded
from controlstack.image import MAX_PIXELS, Array
from controlstack.log import log
from controlstack.networks import Networks
from controlstack.pose import Pose
from controlstack.progress import tell


@dataclass(frozen=True)
class Slider:
    """A number that a preprocessor takes, as people see it."""

    label: str
    minimum: float
    maximum: float
    step: float
    value: float

    def read(self, given: float, name: str) -> float:
        """The value to use: the default for -1 and, with a line in the log, for anything out of range.

        The line begins as the incumbent's does, which its tests look for: a resolution is whole, others not.
        """
        if self.minimum <= given <= self.maximum:
            return given
        if given != -1:
            told = f"{given:.0f}" if name.endswith(".processor_res") else str(float(given))
            log.info(
                "[%s] Invalid value(%s), using default value %g. It has to be from %g to %g.",
                *(name, told, self.value, self.minimum, self.maximum),
            )
        return self.value


RESOLUTION = Slider("Resolution", 64, 2048, 8, 512)


@dataclass(frozen=True)
class Ask:
    """What one run is asked for.

    resolution: px of the short side
    a, b: the preprocessor's own sliders
    mask: "H W" uint8, 255 where the picture is masked, for those that accept one
    seed: for those that draw at random
    networks: where those with a network get it; the cache puts its own here
    """

    resolution: int = 512
    a: float = 0.0
    b: float = 0.0
    mask: Array | None = None
    seed: int = 0
    networks: Networks = field(default_factory=Networks, compare=False, repr=False)


_More = ParamSpec("_More")
_Numbers = TypeVar("_Numbers", bound=np.generic)
_Kept = TypeVar("_Kept")


def at_resolution(
    draw: Callable[Concatenate[Array, Ask, _More], NDArray[_Numbers]],
) -> Callable[Concatenate[Array, Ask, _More], NDArray[_Numbers]]:
    """Decorates what draws a map "h w" or "h w C" of a picture of the same size: it then takes any picture.

    The picture that it gets has a short side of `ask.resolution`, and edge pixels repeat at its right and
    bottom up to multiples of 64 px; of the map these are cut off. Nothing in it is followed by gradients.
    """

    @wraps(draw)
    def run(image: Array, ask: Ask, /, *more: _More.args, **named: _More.kwargs) -> NDArray[_Numbers]:
        picture, crop = padded(image, ask.resolution)
        with torch.no_grad():
            return np.ascontiguousarray(draw(picture, ask, *more, **named)[crop])

    return run


Embedding: TypeAlias = Mapping[str, Tensor]
"""What a network knows of a picture: tensors by the names that its preprocessor and families agree on."""


@dataclass(frozen=True)
class Preprocessor:
    """One preprocessor: `run` makes a map, uint8 "h w 3|4", of a picture, uint8 "H W 3" RGB.

    embed: makes what families read instead of a map; `run` then makes what people are shown
    pose: finds the figures that `run` draws; see `poser`
    delegates: the one that the unit's model asks for takes its place
    name, label: what the API says and what people see; both are found
    control_types: the control types that offer it
    priority: order within a control type, higher first
    resolution, a, b: the sliders that do something
    needs_model: whether a control model goes with it
    needs_picture: whether it looks at one at all
    soft_in_hires: its hard edges are weakened in the high-resolution pass
    seeded: draws at random, from the job's seed
    companions: the families that have to act beside the model, by name
    fills: paints what is masked, and also what a resize puts around the picture
    whole: looked at as it is, also where the host paints only the masked region
    network: what looks at the picture, for the documentation
    files: the network's weights
    instead: weights taken in place of these where the user has put them
    packages: what has to be installed beside torch, NumPy and OpenCV
    """

    name: str
    run: Callable[[Array, Ask], Array]
    label: str
    control_types: tuple[str, ...] = ()
    priority: int = 0
    resolution: Slider | None = RESOLUTION
    a: Slider | None = None
    b: Slider | None = None
    accepts_mask: bool = False
    requires_mask: bool = False
    needs_model: bool = True
    needs_picture: bool = True
    shows_control_mode: bool = True
    soft_in_hires: bool = False
    seeded: bool = False
    companions: tuple[str, ...] = ()
    fills: bool = False
    whole: bool = False
    network: str = ""
    files: tuple[File, ...] = ()
    instead: tuple[File, ...] = ()
    packages: tuple[str, ...] = ()
    embed: Callable[[Array, Ask], Embedding] | None = None
    pose: Callable[[Array, Ask], Pose] | None = None
    delegates: bool = False

    def ask(
        self,
        resolution: float = -1,
        a: float = -1,
        b: float = -1,
        *,
        mask: Array | None = None,
        seed: int = 0,
    ) -> Ask:
        """Read a unit's numbers against the sliders; what has no slider is 0 and changes nothing."""
        sliders = (
            ("processor_res", self.resolution, resolution),
            ("threshold_a", self.a, a),
            ("threshold_b", self.b, b),
        )
        read = [s.read(given, f"{self.name}.{field}") if s else 0.0 for field, s, given in sliders]
        return Ask(
            int(read[0]), read[1], read[2], mask if self.accepts_mask else None, seed if self.seeded else 0
        )


def poser(see: Callable[[Array, Ask], Pose], **declared: Any) -> Preprocessor:
    """A preprocessor of the type OpenPose, whose map is the drawing of the figures that `see` finds.

    The canvas of its pose has the map's size. What is drawn is the pose as its JSON has it, so that the JSON
    on its own gives the same map again. declared: the other fields
    """

    @wraps(see)
    def run(image: Array, ask: Ask) -> Array:
        return _drawn(see(image, ask))

    return Preprocessor(run=run, pose=see, control_types=("OpenPose",), **declared)


def _drawn(pose: Pose) -> Array:
    return poses.draw(poses.parse(poses.write(pose)))


MAX_CACHED = 256 << 20
"""Most bytes of maps that stay cached: the largest map alone takes 192 MiB."""

_shelf: dict[str, Preprocessor] = {}


def register(preprocessor: Preprocessor) -> Preprocessor:
    """Put a preprocessor on the shelf; a later one of the same name takes its place."""
    _shelf[preprocessor.name] = preprocessor
    return preprocessor


@cache
def _load_rooms() -> dict[str, Exception]:
    return rooms.load(import_module("controlstack.annotator"))


def everything() -> list[Preprocessor]:
    """All preprocessors in the order people see: `none`, then by priority and label, both descending."""
    _load_rooms()
    return sorted(_shelf.values(), key=lambda p: (p.name == "none", p.priority, p.label), reverse=True)


def find(name: str) -> Preprocessor:
    """The preprocessor of this name or label. Raises ControlError with near names."""
    from difflib import get_close_matches

    _load_rooms()
    by_name = {key.lower(): p for p in _shelf.values() for key in (p.label, p.name)}
    if found := by_name.get(name.strip().lower()):
        return found
    near = get_close_matches(name.lower(), by_name, n=3)
    raise ControlError(
        f"There is no preprocessor called {name!r}",
        "",
        f"Did you mean {' or '.join(near)}?" if near else "GET /controlnet/module_list names them all",
    )


def unavailable(preprocessor: Preprocessor, networks: Networks) -> ControlError | None:
    """Why this preprocessor cannot run here, and the mend; None as far as nothing speaks against it.

    A package that is there but does not import shows when it is first tried.
    """
    faults = [packages.fault(package) for package in preprocessor.packages]
    if not any(networks.store.find(file) for file in preprocessor.instead):
        faults += [networks.store.fault(file) for file in preprocessor.files]
    error = next((fault for fault in faults if fault), None)
    if error is None:
        return None
    return ControlError(f"{preprocessor.label} is not available: {error.what}", error.why, error.fix)


class Cache:
    """The maps of the last runs, by content: the same picture with the same numbers is not computed twice.

    At most `size` are kept, and no more than `MAX_CACHED` bytes beside the last one; embeddings likewise.
    networks: where preprocessors get theirs
    """

    def __init__(self, size: int | None = None, networks: Networks | None = None) -> None:
        self.size = 16 if size is None else size
        self.networks = networks or Networks()
        self._maps: OrderedDict[tuple[object, ...], Array] = OrderedDict()
        self._embeddings: OrderedDict[tuple[object, ...], Embedding] = OrderedDict()
        self._poses: OrderedDict[tuple[object, ...], Pose] = OrderedDict()

    def run(self, preprocessor: Preprocessor, image: Array, ask: Ask) -> Array:
        """`preprocessor.run`, or its result from before. The map is shared: treat it as read-only.

        Raises ControlError for a picture so narrow that its map would be huge, and if what the preprocessor
        needs is not here.
        """
        check_shape(image, max(ask.resolution, RESOLUTION.value))
        key = _key(preprocessor, image, ask)
        if key in self._maps:
            self._maps.move_to_end(key)
            return self._maps[key]
        if preprocessor.pose:
            result = _drawn(self.pose(preprocessor, image, ask))
        else:
            self._announce(preprocessor)
            result = preprocessor.run(image, replace(ask, networks=self.networks))
        result.setflags(write=False)
        self._maps[key] = result
        _shrink(self._maps, self.size, lambda map_: map_.nbytes)
        return result

    def embed(self, preprocessor: Preprocessor, image: Array, ask: Ask) -> Embedding:
        """`preprocessor.embed`, or its result from before, on the CPU. Raises ControlError as `run` does."""
        if preprocessor.embed is None:
            raise ControlError(f"The preprocessor {preprocessor.label!r} makes a map, no embedding")
        key = _key(preprocessor, image, ask)
        if key not in self._embeddings:
            self._announce(preprocessor)
            made = preprocessor.embed(image, replace(ask, networks=self.networks))
            # copied: a part of a tensor would keep all of it, here or on the graphics card
            self._embeddings[key] = {name: tensor.to("cpu", copy=True) for name, tensor in made.items()}
        self._embeddings.move_to_end(key)
        _shrink(self._embeddings, max(self.size, 1), _weight)
        return self._embeddings[key]

    def pose(self, preprocessor: Preprocessor, image: Array, ask: Ask) -> Pose:
        """The figures in the map of the same run, found once for both. Raises ControlError as `run` does."""
        if preprocessor.pose is None:
            raise ControlError(f"The preprocessor {preprocessor.label!r} finds no figures")
        check_shape(image, max(ask.resolution, RESOLUTION.value))
        key = _key(preprocessor, image, ask)
        if key not in self._poses:
            self._announce(preprocessor)
            self._poses[key] = preprocessor.pose(image, replace(ask, networks=self.networks))
        self._poses.move_to_end(key)
        _shrink(self._poses, max(self.size, 1), lambda _: 0)
        return self._poses[key]

    def _announce(self, preprocessor: Preprocessor) -> None:
        """Say that it runs. Raises ControlError if what it needs is not here."""
        if error := unavailable(preprocessor, self.networks):
            raise error
        packages.check(preprocessor.packages)  # before weights are downloaded for nothing
        tell(f"Preprocessing with {preprocessor.label}", level=logging.DEBUG)

    def taken(self) -> dict[str, int]:
        """Bytes kept: "maps", "embeddings", "networks" in main memory, and those that lie "on_device"."""
        networks = self.networks.taken()
        return {
            "maps": sum(map_.nbytes for map_ in self._maps.values()),
            "embeddings": sum(map(_weight, self._embeddings.values())),
            "networks": networks.pop("cpu", 0),
            "on_device": sum(networks.values()),
        }

    def clear(self) -> None:
        """Let go of all that is kept; nothing but time is lost."""
        self._maps.clear()
        self._embeddings.clear()
        self._poses.clear()
        self.networks.unload()


def _shrink(kept: OrderedDict[tuple[object, ...], _Kept], size: int, weigh: Callable[[_Kept], int]) -> None:
    """Drop the oldest until `size` are left, or one, or the bytes are within bounds."""
    while len(kept) > size or (len(kept) > 1 and sum(map(weigh, kept.values())) > MAX_CACHED):
        kept.popitem(last=False)


def _weight(embedding: Embedding) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in embedding.values())


def _key(preprocessor: Preprocessor, image: Array, ask: Ask) -> tuple[object, ...]:
    return preprocessor.name, _digest(image), ask.resolution, ask.a, ask.b, ask.seed, _digest(ask.mask)


def check_shape(image: Array, reach: float) -> None:
    """Raises ControlError if the picture would be huge once its short side is `reach` px."""
    short, long = sorted(image.shape[:2])
    if reach * reach * long > MAX_PIXELS * short:
        raise ControlError(
            "The picture is too narrow",
            f"With a short side of {reach:g} px its map would be {reach * long / short:.0f} px long",
            "Send a picture nearer to a square, or ask for a lower resolution",
        )


def _digest(array: Array | None) -> object:
    return None if array is None else (array.shape, blake2b(array.tobytes(), digest_size=16).digest())
