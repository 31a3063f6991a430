"""All controls of one job, from the plans to the sum that the host adds at each evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn

from controlstack import geometry, image, preprocess
from controlstack.errors import ControlError
from controlstack.evaluation import Acting, Evaluation, fused
from controlstack.family import Match, Start
from controlstack.image import Array
from controlstack.joints import Call, Control, Services, joints
from controlstack.log import log
from controlstack.plan import Plan
from controlstack.preprocess import Embedding
from controlstack.unit import in_hires
from controlstack.weights import Loaded, stamp


@dataclass
class Session:
    """One job's controls. A failure is kept and raised at the next evaluation, which no host swallows.

    turn: the round of a series of pictures that the plans are for
    """

    models: Loaded
    cache: preprocess.Cache
    plans: Sequence[Plan] = ()
    turn: int = 0
    failure: Exception | None = None
    _fitted: dict[tuple[int, bool], list[Array]] = field(default_factory=dict)
    _detected: dict[int, tuple[Array, ...]] = field(default_factory=dict)
    _embedded: dict[int, tuple[Embedding, ...]] = field(default_factory=dict)
    _controls: list[tuple[Plan, Match, Control]] = field(default_factory=list)
    _networks: list[nn.Module] = field(default_factory=list)
    _services: Services | None = None
    _cells: tuple[int, int] = (0, 0)
    _expected: set[int] = field(default_factory=set)
    _acted: set[int] = field(default_factory=set)

    def fail(self, error: Exception) -> None:
        """Keep the first error; later ones follow from it."""
        if self.failure is None:
            self.failure = error
            log.error("%s", error, exc_info=None if isinstance(error, ControlError) else error)

    def prepare(self) -> None:
        """Run every unit's preprocessor, once for all passes; with low VRAM none leaves its network."""
        self._fitted.clear()
        for plan in self.plans:
            with _naming(plan):
                self._detected[plan.index] = plan.maps(self.cache)
                self._embedded[plan.index] = plan.embeddings(self.cache)
                if plan.unit.low_vram:
                    self.cache.networks.unload()

    def begin(self, width: int, height: int, services: Services, *, hires: bool) -> None:
        """Start a sampling pass of this size in px: fit every map, load and start what acts in this pass."""
        self.cache.networks.rest()
        self._controls, self._services = [], services
        self._cells = (height // 8, width // 8)
        fellows: list[Control] = []
        for plan in self.plans:
            with _naming(plan):
                fitted = self._fit(plan, width, height, hires)
                if not plan.schedule.acts_in(hires=hires):
                    continue
                unit = in_hires(plan.unit) if hires and plan.unit.hires else plan.unit
                for match, map_ in product(plan.matches, fitted):
                    start = Start(
                        *(self._network(match, services), match, image.hint(map_), map_, unit),
                        *(services, hires, plan.seed, plan.unprompted),
                        embeddings=self._embedded[plan.index],
                        fellows=fellows,
                    )
                    fellows.append(match.family.begin(start))
                    self._controls.append((plan, match, fellows[-1]))
                self._expected.add(plan.index)

    def _fit(self, plan: Plan, width: int, height: int, hires: bool) -> list[Array]:
        """The unit's maps at the size of the pass, fitted once for all batches."""
        fitted = self._fitted.get((plan.index, hires))
        if fitted is None or fitted[0].shape[:2] != (height, width):
            detected, mode = self._detected[plan.index], plan.source.resize
            for map_ in detected:
                h, w = map_.shape[:2]
                preprocess.check_shape(map_, geometry.pixel_perfect_resolution(h, w, height, width, mode))
            fitted = [geometry.fit(map_, width, height, mode) for map_ in detected]
            self._fitted[plan.index, hires] = fitted
        return fitted

    def _network(self, match: Match, services: Services) -> nn.Module:
        if match.header is None:
            return match.family.load(match, services)
        checkpoint = services.checkpoint if match.of_checkpoint else None
        key = (stamp(match.header.path), services.device, services.dtype, checkpoint)
        network = self.models.get(key, lambda: match.family.load(match, services))
        self._networks.append(network)  # outlives the shelf's bound for as long as the job runs
        return network

    @property
    def joints(self) -> frozenset[str]:
        """The joints at which the controls of this pass act."""
        return frozenset().union(*(joints(control) for *_, control in self._controls))

    def start(self, x: Tensor) -> Tensor:
        """The noise "B 4 h w" that the pass starts from, of spread 1, as controls change it."""
        changes = []
        for plan, _, control in self._controls:
            if plan.schedule.acts_from_start and (change := control.start(x)) is not None:
                changes.append(plan.schedule.at_start(change))
        return x + torch.stack(changes).sum(0).to(x) if changes else x

    def step(self, call: Call) -> Evaluation | None:
        """What all controls do at this evaluation, None where none acts. Raises what failed before."""
        if self.failure is not None:
            raise self.failure
        if self._controls and call.x.shape[-2:] != self._cells:
            raise _tiled(call.x.shape[-2:], self._cells)
        acting = []
        for plan, match, control in self._controls:
            strength = plan.schedule.at(call)
            if strength is not None:
                if match.layers is None:  # a companion: the weights of layers are the model's
                    strength = replace(strength, layers=None)
                if match.own_weight:
                    strength = replace(strength, weight=1.0)
                acting.append(Acting(control, strength, call.take(strength.rows)))
                self._acted.add(plan.index)
        return Evaluation(call, fused(acting), cast(Services, self._services)) if acting else None

    def picture(self, picture: Tensor, index: int) -> Tensor:
        """A decoded picture of the job, "3 H W", 0..1, as controls leave it; `index` counts in the batch."""
        for plan, _, control in self._controls:
            if plan.index in self._acted and plan.schedule.acts_on(index):
                changed = control.picture(picture, index)
                if changed is not None:
                    picture = plan.schedule.within(picture, changed)
        return picture

    def maps(self, index: int) -> list[Array]:
        """What a unit was given to see, uint8 "H W 3|4": in the high-resolution pass, then in the first."""
        return [m for hires in (True, False) for m in self._fitted.get((index, hires), ())]

    def close(self) -> list[str]:
        """Let go of networks and hints. Returns a sentence for each unit that found no step to act in."""
        idle = [
            f"ControlNet unit {plan.index} had no effect: no step that ran lies inside its window "
            f"{plan.schedule.start:g} to {plan.schedule.end:g}."
            for plan in self.plans
            if plan.index in self._expected - self._acted and self.failure is None
        ]
        self._controls, self._networks = [], []
        return idle


def _tiled(part: Sequence[int], whole: Sequence[int]) -> ControlError:
    (h, w), (height, width) = part, whole
    return ControlError(
        f"The checkpoint was asked to paint {w * 8}x{h * 8} px of a picture of {width * 8}x{height * 8}",
        "An extension that paints in tiles is at work, and the hint is not cut with the picture",
        "Switch off tiled painting, or disable the units",
    )


@contextmanager
def _naming(plan: Plan) -> Iterator[None]:
    """Mistakes that surface inside name the unit."""
    try:
        yield
    except ControlError as error:
        error.in_unit(plan.index)
        raise
