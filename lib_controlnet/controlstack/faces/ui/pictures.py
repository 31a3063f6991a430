"""Reading what the page's picture components send, whatever version of gradio sends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controlstack import image
from controlstack.errors import ControlError
from controlstack.image import Array, Picture

KEYS = frozenset({"image", "mask", "background", "layers", "composite", "id"})
"""What the dictionaries of drawn pictures hold, in all versions."""


def drawn(value: object) -> Picture | None:
    """The picture on a canvas and what was brushed over, None for an empty canvas.

    value: "H W 3|4"; ``{"image", "mask"}`` (gradio 3); ``{"background", "layers", "composite"}`` (since 4)
    """
    if not isinstance(value, Mapping):
        return None if value is None else Picture(image.hwc3(_array(value)))
    ground = value.get("image", value.get("background"))
    if ground is None:
        return None
    pixels = _array(ground)
    strokes = [image.read_mask(layer) for layer in value.get("layers") or ()]
    if value.get("mask") is not None:
        strokes.append(image.read_mask(value["mask"]))
    mask = _joined([stroke for stroke in strokes if stroke is not None and stroke.any()], pixels.shape[:2])
    if pixels.ndim == 3 and pixels.shape[2] == 4 and not pixels[..., 3].any() and mask is None:
        return None  # an editor whose picture was removed sends a transparent one
    return Picture(image.hwc3(pixels), mask)


def region(value: object) -> Array | None:
    """A mask "H W" from a canvas: what was brushed over, or else the picture itself, white is inside."""
    found = drawn(value)
    if found is None:
        return None
    return found.rgb[..., 0] if found.mask is None else found.mask


def files(value: object) -> Iterator[Path]:
    """The files of an upload or a gallery, in their order: paths, objects with a name, or pairs with a
    caption."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        first: Any = item[0] if isinstance(item, (list, tuple)) else item
        if isinstance(first, Mapping):
            first = first.get("name") or first.get("path")
        name = getattr(first, "name", first)
        if isinstance(name, str) and name:
            yield Path(name)


def opened(value: object, roots: Sequence[Path]) -> list[Array]:
    """The pictures of a gallery, uint8 "H W 3". Raises ControlError.

    roots: where gradio keeps uploads. Old versions take the page's word for a file's name, and this one does
    not: nothing else is read.
    """
    return [_read(path, roots) for path in files(value)]


def within(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a file lies below one of these folders, links resolved."""
    real = path.resolve()
    return any(real.is_relative_to(root.resolve()) for root in roots)


def _read(path: Path, roots: Sequence[Path]) -> Array:
    from PIL import Image

    if not within(path, roots):
        raise ControlError(f"{path.name} was not uploaded on this page", fix="Upload the picture again")
    try:
        with Image.open(path, formats=image.FORMATS) as stored:
            return image.inputs(stored)[0].rgb
    except OSError as error:
        raise ControlError(
            f"{path.name} cannot be read as a picture", "", f"Upload one of {', '.join(image.FORMATS)}"
        ) from error


def _array(value: Any) -> Array:
    return np.asarray(value, np.uint8)


def _joined(strokes: Sequence[Array], shape: Sequence[int]) -> Array | None:
    """All strokes as one mask of the picture's size, None where nothing was drawn."""
    fitting = [stroke for stroke in strokes if stroke.shape == tuple(shape)]
    return np.maximum.reduce(fitting) if fitting else None
