"""A unit resolved against a job: nothing is left to guess, and every mistake of the user's has surfaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from controlstack import embeddings, family, geometry, image, preprocess, sources
from controlstack.catalog import Catalog
from controlstack.errors import ControlError
from controlstack.family import Match
from controlstack.image import Array, Picture
from controlstack.layout import Base
from controlstack.preprocess import Ask, Embedding, Preprocessor
from controlstack.schedule import RegionMask, Schedule
from controlstack.sources import Job, Source
from controlstack.unit import ControlNetUnit, HiResFixOption, InputMode, ResizeMode, WeightType, in_hires
from controlstack.weight_types import layer_weights
from controlstack.weights import read_header


@dataclass(frozen=True)
class Plan:
    """One unit, ready to run.

    index: its place as the user sees it
    unit: what the user asked for, with the names and numbers that are really used
    asks: what the preprocessor is asked for, one for each of the source's pictures
    given: embeddings that the unit brings itself
    matches: what acts, the control model and the preprocessor's companions, whichever there are
    seed, unprompted: the job's, as in `Job`
    """

    index: int
    unit: ControlNetUnit
    preprocessor: Preprocessor
    source: Source
    asks: Sequence[Ask]
    matches: Sequence[Match]
    schedule: Schedule
    given: Sequence[Embedding] = ()
    seed: int = 0
    unprompted: bool = False

    def maps(self, cache: preprocess.Cache) -> tuple[Array, ...]:
        """The detected maps, uint8 "h w 3|4", each at the preprocessor's own size; one control is made of
        each. Families that read embeddings read them all at once: then one is enough, to be shown."""
        looks = list(zip(self.source.pictures, self.asks, strict=True))
        if self.preprocessor.embed is not None:
            looks = looks[:1]
        return tuple(cache.run(self.preprocessor, picture.rgb, ask) for picture, ask in looks)

    def embeddings(self, cache: preprocess.Cache) -> tuple[Embedding, ...]:
        """What is known of each picture, for families that read no map."""
        if self.given or self.preprocessor.embed is None:
            return tuple(self.given)
        looks = zip(self.source.pictures, self.asks, strict=True)
        return tuple(cache.embed(self.preprocessor, picture.rgb, ask) for picture, ask in looks)


def resolve(index: int, unit: ControlNetUnit, job: Job, catalog: Catalog) -> Plan:
    """Raises ControlError, naming the unit, for anything that cannot work."""
    try:
        preprocessor = preprocess.find(unit.module)
        alone = unit.model == "None" or not preprocessor.needs_model
        match = None if alone else _match(unit.model, job.base, catalog)
        given = embeddings.read(unit.ipadapter_input or ())
        if given:
            _check_reads_embeddings(match)
            preprocessor = preprocess.find("none")
        if given or not preprocessor.needs_picture:
            unit = replace(unit, image=np.zeros((8, 8, 3), np.uint8), mask=None, save_detected_map=False)
        if preprocessor.delegates:
            preprocessor = delegated(preprocessor, match)
        matches = _matches(unit, preprocessor, match, job.base, embedded=bool(given))
        source, asks = looks(unit, preprocessor, job)
        share = 1.0 if preprocessor.embed is not None else 1 / len(source.pictures)
        schedule = _schedule(unit, preprocessor, matches[0], job, share)
        model = "None" if matches[0].header is None else catalog.name(matches[0].header.path)
    except ControlError as error:
        raise error.in_unit(index) from error
    said = replace(unit, module=preprocessor.label, model=model, processor_res=asks[0].resolution)
    said = replace(said, threshold_a=asks[0].a, threshold_b=asks[0].b)
    of_job = job.seed, job.unprompted
    return Plan(index, said, preprocessor, source, asks, matches, schedule, given, *of_job)


def _check_reads_embeddings(match: Match | None) -> None:
    if match is None or not match.embeddings:
        raise ControlError(
            "It has an ipadapter_input",
            "That is for models which read embeddings, such as IP-Adapters",
            "Choose such a model, or leave ipadapter_input out",
        )


def looks(unit: ControlNetUnit, preprocessor: Preprocessor, job: Job) -> tuple[Source, list[Ask]]:
    """The pictures that a preprocessor looks at, and what it is asked for each. Raises ControlError."""
    many = preprocessor.embed is not None or unit.input_mode is InputMode.MERGE
    source = sources.choose(
        unit, job, wants_mask=preprocessor.accepts_mask, many=many, whole=preprocessor.whole
    )
    if preprocessor.fills:
        source = sources.surrounded(source, job)
    return source, [_ask(unit, preprocessor, picture, source.resize, job) for picture in source.pictures]


def delegated(preprocessor: Preprocessor, match: Match | None) -> Preprocessor:
    """The preprocessor that the model was made with. Raises ControlError where there is none."""
    if match is None or not match.preprocessor:
        raise ControlError(
            f"The preprocessor {preprocessor.label!r} stands for the one that a model asks for",
            "There is no model, or it asks for none",
            "Choose a model of the same control type, or another preprocessor",
        )
    return preprocess.find(match.preprocessor)


def _matches(
    unit: ControlNetUnit, preprocessor: Preprocessor, match: Match | None, base: Base, *, embedded: bool
) -> list[Match]:
    """embedded: the unit brings embeddings itself"""
    companions = filter(None, map(family.called, preprocessor.companions))
    beside = list(filter(None, (companion.beside(base) for companion in companions)))
    if match is not None:
        if match.embeddings != (embedded or preprocessor.embed is not None):
            reads, makes = ("embeddings", "a map") if match.embeddings else ("a map", "embeddings")
            raise ControlError(
                f"The preprocessor {preprocessor.label!r} makes {makes}, but {unit.model!r} reads {reads}",
                "",
                "Choose a preprocessor of the model's control type",
            )
        return [match, *beside]
    if not beside:
        raise ControlError(
            "It is enabled but has no model",
            f"The preprocessor {preprocessor.label!r} only prepares a picture for one",
            "Choose a control model, or disable the unit",
        )
    return beside


def _match(model: str, base: Base, catalog: Catalog) -> Match:
    match = family.recognise(read_header(catalog.find(model)))
    if fault := match.base.mismatch(base):
        raise ControlError(
            f"The control model {model!r} does not fit the checkpoint",
            fault,
            "Choose a pair made for each other",
        )
    return match


def _schedule(
    unit: ControlNetUnit, preprocessor: Preprocessor, match: Match, job: Job, share: float
) -> Schedule:
    """share: of the unit's strength that each of its controls has"""
    layers = _layers(unit, match)
    return Schedule(
        weight=unit.weight * share,
        start=unit.guidance_start,
        end=unit.guidance_end,
        mode=unit.control_mode,
        layers=None if layers is None else tuple(layer * share for layer in layers),
        mask=_region(unit),
        when=unit.hr_option if job.hires else HiResFixOption.BOTH,
        soft_in_hires=preprocessor.soft_in_hires,
        cond_only=match.cond_only,
        curve=unit.weight_curve,
        negative=unit.negative_weight,
        batch=tuple(unit.batch_weights or [1.0]),
        in_hires=_schedule(in_hires(unit), preprocessor, match, job, share)
        if job.hires and unit.hires
        else None,
    )


def _layers(unit: ControlNetUnit, match: Match) -> list[float] | None:
    """The weights of the model's layers one by one, None where they are not told apart."""
    asked = unit.advanced_weighting
    if asked is None:
        return None
    if match.layers and isinstance(asked, WeightType):
        return layer_weights(asked, match.layers, unit.weight, unit.composition_weight)
    if isinstance(asked, WeightType) or len(asked) != match.layers:
        given = repr(asked.value) if isinstance(asked, WeightType) else f"{len(asked)} numbers"
        raise ControlError(
            f"advanced_weighting has {given}",
            f"This control model takes {match.layers}, the first for the shallowest block"
            if match.layers
            else "This kind of control has none",
            f"Send {match.layers} numbers, or none" if match.layers else "Leave it out",
        )
    return asked


def _region(unit: ControlNetUnit) -> RegionMask | None:
    mask = image.read_mask(unit.effective_region_mask, "region mask")
    return None if mask is None else RegionMask(torch.from_numpy(mask.copy())[None, None] / 255)


def _ask(
    unit: ControlNetUnit, preprocessor: Preprocessor, picture: Picture, resize: ResizeMode, job: Job
) -> Ask:
    ask = preprocessor.ask(
        unit.processor_res,
        unit.threshold_a,
        unit.threshold_b,
        mask=sources.empty_mask(picture) if picture.mask is None else picture.mask,
        seed=job.seed,
    )
    if unit.pixel_perfect and preprocessor.resolution:
        height, width = picture.rgb.shape[:2]
        fitted = geometry.pixel_perfect_resolution(height, width, job.height, job.width, resize)
        ask = replace(ask, resolution=fitted)
    return ask
