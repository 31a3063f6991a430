"""Pictures in and out: whatever a picture arrives as becomes ``uint8`` arrays; arrays become PNG or tensors.

Colours are RGB. In a mask 255 is the masked area (what inpainting repaints) and 0 is what stays.
"""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from controlstack.errors import ControlError

Array: TypeAlias = NDArray[np.uint8]
"""Pixels, 0..255."""

MAX_PIXELS = 8192 * 8192
"""Most pixels in one picture that arrives as text."""
MAX_TEXT = 256 << 20
"""Most characters of one picture that arrives as text."""
MAX_UNIT_PIXELS = 4 * MAX_PIXELS
"""Most pixels in all pictures of one unit, 768 MiB as RGB."""
MAX_UNIT_PICTURES = 1000
"""Most pictures in one unit, however small."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""What is decoded; Pillow knows more, and would start Ghostscript for EPS."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One input of a unit: `rgb` is "H W 3"; `mask` is "H W" of the same size, None when none came."""

    rgb: Array
    mask: Array | None = None


def inputs(image: object, mask: object = None) -> list[Picture]:
    """Every picture in a unit's `image` field; `mask` is the unit's own, for pictures that bring none.

    A picture is base64, a data URI, a ``uint8`` array or a PIL image. `image` is a picture,
    ``{"image", "mask"}``, the pair ``[image, mask]``, or a list of any of these; two plain pictures in a list
    are always a pair. None and "" stand for nothing, at any depth. Raises ControlError for anything else, for
    a mask without a picture or of another size, past `MAX_UNIT_PIXELS` and `MAX_UNIT_PICTURES`.
    """
    pictures: list[Picture] = []
    pixels = 0
    for index, (one, own_mask) in enumerate(_entries(image)):
        if index == MAX_UNIT_PICTURES:
            raise ControlError("The unit has too many pictures", fix=f"Send at most {MAX_UNIT_PICTURES}")
        if _absent(one):
            if not _absent(own_mask):
                raise _lonely_mask()
            continue
        picture = _picture(one, mask if _absent(own_mask) else own_mask)
        pixels += picture.rgb[..., 0].size
        if pixels > MAX_UNIT_PIXELS:
            raise ControlError("The unit has too many pictures", fix=f"Send at most {MAX_UNIT_PIXELS} pixels")
        pictures.append(picture)
    if not pictures and not _absent(mask):
        raise _lonely_mask()
    return pictures


def read_mask(value: object, what: str = "mask") -> Array | None:
    """A mask "H W" from one picture in any form; None for None and "". Raises ControlError as `inputs`.

    what: its name in errors
    """
    return None if _absent(value) else _mask(_array(value, what))


def decode(text: str, what: str = "picture") -> Array:
    """The picture in raw base64 or a data URI as stored: "H W", "H W 3" or "H W 4", upright by its EXIF tag.

    Palettes and other colour spaces become RGB (RGBA where something is transparent), 16 bits become 8.
    Raises ControlError, which calls it `what`, for paths, web addresses, broken data, and, before decoding,
    beyond `MAX_TEXT` and `MAX_PIXELS`.
    """
    if len(text) > MAX_TEXT:
        raise _too_large(what, f"It has {len(text)} characters", f"at most {MAX_TEXT}")
    data = text.partition(",")[2] if text[:5].lower() == "data:" else text
    data = "".join(data.split())
    try:
        raw = base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
    except ValueError as error:
        raise ControlError(
            f"The {what} is not base64",
            "File paths and web addresses are not read",
            "Send the picture itself as base64",
        ) from error
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as stored:
            if stored.width * stored.height > MAX_PIXELS:
                raise _too_large(what, f"It has {stored.width}x{stored.height} pixels")
            return _from_pil(ImageOps.exif_transpose(stored))
    except Image.DecompressionBombError as error:
        raise _too_large(what, "Its header announces a huge picture") from error
    except (OSError, EOFError, LookupError, SyntaxError, TypeError, ValueError, struct.error) as error:
        raise ControlError(
            f"The {what} cannot be decoded",
            f"It is damaged, or none of {', '.join(FORMATS)}",
            "Send the picture itself as base64",
        ) from error


def encode_png(array: Array) -> str:
    """A PNG of "H W", "H W 3" or "H W 4" as raw base64."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def hwc3(array: NDArray[np.generic]) -> Array:
    """RGB "H W 3" of "H W", "H W 1", "H W 3" or "H W 4"; transparency shows white: rgb·a + 255·(1 − a).

    Raises ControlError for other shapes and for numbers that are not ``uint8``.
    """
    pixels = _channels(array)
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[:, :, 3:].astype(np.uint32)
    blended: Array = ((pixels[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return blended


def to_tensor(array: Array) -> torch.Tensor:
    """ "H W C" as float32 "1 C H W" in 0..1."""
    return torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()


def from_tensor(picture: torch.Tensor) -> Array:
    """Pixels "H W C" of a picture "C H W", 0..1."""
    pixels: Array = (picture * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return pixels


def hint(array: Array) -> torch.Tensor:
    """The hint "1 3 H W" a control network reads, 0..1; in an inpaint map "H W 4" masked pixels become −1.

    c·(1 − m) − m with m = mask > 0.5. Source: ControlNet 1.1 inpaint, lllyasviel/ControlNet-v1-1-nightly.
    """
    tensor = to_tensor(array)
    if tensor.shape[1] == 3:
        return tensor
    masked = (tensor[:, 3:] > 0.5).float()
    return tensor[:, :3] * (1 - masked) - masked


def shown(array: Array) -> Array:
    """A map as people and programs get to see it: an inpaint mask becomes alpha 255 - mask // 2."""
    if array.shape[2] == 3:
        return array
    return np.dstack([array[..., :3], 255 - array[..., 3] // 2])


def _entries(image: object) -> Iterator[tuple[object, object]]:
    """The (picture, own mask) pairs in a unit's `image` field."""
    for item in image if isinstance(image, list | tuple) and not _is_pair(image) else [image]:
        if isinstance(item, Mapping):
            yield item.get("image"), item.get("mask")
        elif isinstance(item, list | tuple) and _is_pair(item):
            yield item[0], item[1]
        else:
            yield item, None


def _is_pair(items: list[object] | tuple[object, ...]) -> bool:
    return len(items) == 2 and not any(isinstance(item, Mapping | list | tuple) for item in items)


def _picture(image: object, mask: object) -> Picture:
    rgb = hwc3(_array(image))
    if _absent(mask):
        return Picture(rgb)
    flat = _mask(_array(mask, "mask"))
    if flat.shape != rgb.shape[:2]:
        (mask_h, mask_w), (height, width) = flat.shape, rgb.shape[:2]
        raise ControlError(
            f"The mask is {mask_w}x{mask_h} but the picture is {width}x{height}",
            "Every pixel of the picture needs one of the mask",
            "Send a mask of the picture's size",
        )
    return Picture(rgb, flat)


def _mask(array: NDArray[np.generic]) -> Array:
    """The first channel "H W"; of a partly transparent drawing, what is painted.

    That is alpha where the brush has one colour, as in a sketch layer, else the first channel times alpha.
    """
    pixels = _channels(array)
    first = pixels[:, :, 0]
    if pixels.shape[2] < 4:
        return first
    alpha = pixels[:, :, 3]
    if alpha.min() == alpha.max():
        return first
    if first.min() == first.max():
        return alpha
    painted: Array = ((first.astype(np.uint32) * alpha + 127) // 255).astype(np.uint8)
    return painted


def _array(picture: object, what: str = "picture") -> NDArray[np.generic]:
    if isinstance(picture, str):
        return decode(picture, what)
    if isinstance(picture, Image.Image):
        return _from_pil(picture)
    if isinstance(picture, np.ndarray):
        return picture
    raise ControlError(
        f"A {what} cannot be a {type(picture).__name__}",
        "It is base64 text, a uint8 array or a PIL image",
        "Send the picture itself as base64",
    )


def _from_pil(image: Image.Image) -> Array:
    if image.mode.startswith("I"):  # 16-bit grey: "I;16" and its byte orders, plain "I" in older Pillow
        return np.rint(np.clip(np.asarray(image, np.float64) / 257, 0, 255)).astype(np.uint8)
    if image.mode == "F":
        raise ControlError("The picture has floating-point pixels", fix="Send it with 8 bits a channel")
    if image.mode in {"LA", "La", "PA", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in {"L", "RGB", "RGBA"}:
        image = image.convert("RGB")
    return np.array(image, np.uint8)


def _channels(array: NDArray[np.generic]) -> Array:
    """The array as "H W C", C 1, 3 or 4."""
    if array.dtype != np.uint8:
        raise ControlError(f"A picture's numbers must be uint8, not {array.dtype}", fix="Send 0..255")
    pixels: Array = array[:, :, None] if array.ndim == 2 else array  # type: ignore[assignment]
    if pixels.ndim != 3 or pixels.shape[2] not in {1, 3, 4} or not pixels.size:
        raise ControlError(f"Shape {array.shape} is not a picture", "A picture is H W, H W 3 or H W 4")
    return pixels


def _absent(picture: object) -> bool:
    return picture is None or (isinstance(picture, str) and not picture.strip())


def _too_large(what: str, why: str, most: str = f"at most {MAX_PIXELS} pixels") -> ControlError:
    return ControlError(f"The {what} is too large", why, f"Send {most}")


def _lonely_mask() -> ControlError:
    return ControlError("A mask came without a picture", "It masks a part of one", "Send the picture with it")
