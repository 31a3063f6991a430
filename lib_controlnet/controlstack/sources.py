"""Which picture a unit looks at, before any preprocessor."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controlstack import geometry, image
from controlstack.errors import ControlError
from controlstack.image import Array, Picture
from controlstack.layout import Base
from controlstack.unit import ControlNetUnit, ResizeMode


@dataclass(frozen=True)
class Job:
    """What the host is about to generate.

    width, height: px of the first pass
    hires: whether a high-resolution pass follows the first
    base: the checkpoint
    seed: for what is drawn at random
    unprompted: whether it has neither a prompt nor a negative one
    init: the picture of img2img, with its prepared mask if it inpaints
    init_resize: how the host fits it
    only_masked: px of padding when the host paints only the masked region, else None
    """

    width: int
    height: int
    base: Base
    hires: bool = False
    seed: int = 0
    unprompted: bool = False
    init: Picture | None = None
    init_resize: ResizeMode = ResizeMode.RESIZE
    only_masked: int | None = None


@dataclass(frozen=True)
class Source:
    """A unit's pictures, at least one, and how they will be fitted to the job."""

    pictures: tuple[Picture, ...]
    resize: ResizeMode


def choose(
    unit: ControlNetUnit, job: Job, *, wants_mask: bool, many: bool = False, whole: bool = False
) -> Source:
    """The unit's own picture, or else that of img2img, cropped with it when only the mask is painted.

    many: whether it may bring several
    whole: whether it stays as it is even then

    Raises ControlError when there is none, or when it cannot be read.
    """
    own = image.inputs(unit.image, None if unit.image is None else unit.mask)
    if len(own) > 1 and not many:
        raise ControlError(
            f"It got {len(own)} pictures",
            "This preprocessor looks at one",
            "Send one picture per unit, or one unit per picture",
        )
    if own:
        source = Source(tuple(own if wants_mask else map(_drawing, own)), unit.resize_mode)
    elif job.init is not None:
        masked = image.inputs(job.init.rgb, unit.mask)[0] if unit.mask is not None else job.init
        source = Source((masked if wants_mask else Picture(masked.rgb),), job.init_resize)
    else:
        raise ControlError(
            "It is enabled but has no picture",
            "Neither the unit nor the job brings one",
            "Give the unit an image, use img2img, or disable the unit",
        )
    return source if whole else _cropped(source, unit, job)


def _drawing(picture: Picture) -> Picture:
    """What was drawn on a canvas stands for the picture where the preprocessor has no use for a mask."""
    if picture.mask is None or (picture.mask <= 5).all() or (picture.mask >= 250).all():
        return Picture(picture.rgb)
    return Picture(image.hwc3(picture.mask))


def surrounded(source: Source, job: Job) -> Source:
    """Where the pictures are to be surrounded, they are so now, with masks that cover what is new."""
    if source.resize is not ResizeMode.OUTER_FIT:
        return source

    def fit(picture: Picture) -> Picture:
        mask = empty_mask(picture) if picture.mask is None else picture.mask
        fitted = geometry.fit(np.dstack([picture.rgb, mask]), job.width, job.height, source.resize)
        return Picture(fitted[..., :3].copy(), fitted[..., 3].copy())

    return replace(source, pictures=tuple(map(fit, source.pictures)))


def _cropped(source: Source, unit: ControlNetUnit, job: Job) -> Source:
    """The part of the control pictures that lies under the region which the host paints."""
    if (
        job.only_masked is None
        or job.init is None
        or job.init.mask is None
        or not unit.inpaint_crop_input_image
    ):
        return source
    box = geometry.crop_region(job.init.mask, job.only_masked)
    if box is None:
        return source
    height, width = job.init.mask.shape
    box = geometry.expand_to_aspect(box, job.width, job.height, width, height)

    def crop(channels: Array) -> Array:
        whole = geometry.resample(channels, width, height, source.resize)
        return geometry.crop(whole, box, job.width, job.height)

    cropped = (
        Picture(crop(p.rgb), None if p.mask is None else crop(image.hwc3(p.mask))[..., 0])
        for p in source.pictures
    )
    return Source(tuple(cropped), ResizeMode.OUTER_FIT)


def empty_mask(picture: Picture) -> Array:
    """Covers nothing: an inpaint unit without a mask only paints what the resize adds around its picture."""
    return np.zeros(picture.rgb.shape[:2], np.uint8)
