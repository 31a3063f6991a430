"""Sizes and shapes of control pictures: from any picture to exactly the pixels that a job needs.

Pictures are ``uint8`` arrays "H W 3", or "H W 4" where the last channel is an inpaint mask (255 is masked).
Sizes are px, width first; array shapes are height first.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from controlstack.image import Array
from controlstack.unit import ResizeMode


class Box(NamedTuple):
    """A rectangle in px; `right` and `bottom` are just outside."""

    left: int
    top: int
    right: int
    bottom: int


def pixel_perfect_resolution(
    image_h: int, image_w: int, target_h: int, target_w: int, mode: ResizeMode
) -> int:
    """The preprocessor resolution, px of the short side, whose map `fit` brings to the target unscaled."""
    scales = target_h / image_h, target_w / image_w
    scale = min(scales) if mode == ResizeMode.OUTER_FIT else max(scales)
    return round(scale * min(image_h, image_w))


def padded(picture: Array, resolution: int) -> tuple[Array, tuple[slice, slice]]:
    """A picture as preprocessors with networks want it, and the slices that undo the padding of their result.

    The short side becomes `resolution`; edge pixels repeat at the right and bottom up to multiples of 64 px.
    ``result[crop]`` then has a short side of exactly `resolution`.
    """
    h, w = picture.shape[:2]
    scale = resolution / min(h, w)
    height, width = round(h * scale), round(w * scale)
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    resized = cv2.resize(picture, (width, height), interpolation=method)
    bordered: Array = cv2.copyMakeBorder(resized, 0, -height % 64, 0, -width % 64, cv2.BORDER_REPLICATE)
    return bordered, (slice(0, height), slice(0, width))


def fit(picture: Array, width: int, height: int, mode: ResizeMode) -> Array:
    """A control map brought to `width` and `height`: stretched, centred and cut, or centred and surrounded.

    It is surrounded by the median colour of its four border lines, and in an inpaint map by masked pixels.
    """
    if mode == ResizeMode.RESIZE:
        return resize_keeping_edges(picture, width, height)
    h, w = picture.shape[:2]
    scales = width / w, height / h
    scale = max(scales) if mode == ResizeMode.INNER_FIT else min(scales)
    scaled = resize_keeping_edges(picture, max(1, round(w * scale)), max(1, round(h * scale)))
    scaled_h, scaled_w = scaled.shape[:2]
    if mode == ResizeMode.INNER_FIT:
        return scaled[_centred(height, scaled_h), _centred(width, scaled_w)]
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    canvas = np.empty((height, width, picture.shape[2]), np.uint8)
    canvas[:] = np.median(border, axis=0).astype(np.uint8)
    canvas[:, :, 3:] = 255
    canvas[_centred(scaled_h, height), _centred(scaled_w, width)] = scaled
    return canvas


def resize_keeping_edges(picture: Array, width: int, height: int) -> Array:
    """A control map in another size without new colours in drawings and without soft or broken lines.

    Maps of 3 to 199 colours (segments, poses) take the nearest pixel, others area means to shrink and cubic
    to grow. Black and white maps stay black and white; if most of the white is thinner than 3 px, all of it
    becomes lines of one pixel. An inpaint mask is cut at 127.
    """
    h, w = picture.shape[:2]
    if (w, h) == (width, height):
        return picture
    colours = picture[:, :, :3]
    count, grows, shrinks = _colour_count(colours), width * height > w * h, width * height < w * h
    method = cv2.INTER_NEAREST if 2 < count < 200 else cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resized: Array = cv2.resize(colours, (width, height), interpolation=method)
    if count == 2 and colours.min() < 16 and colours.max() > 240:
        grey = resized.mean(axis=2, dtype=np.float32).astype(np.uint8)
        white = _binary_lines(grey, prune=grows) if _is_line_drawing(colours) else _otsu(grey)
        resized = np.repeat(white[:, :, None], 3, axis=2)
    if picture.shape[2] == 3:
        return resized
    mask = cv2.resize(picture[:, :, 3], (width, height), interpolation=method)
    return np.dstack([resized, np.where(mask > 127, np.uint8(255), np.uint8(0))])


def resample(picture: Array, width: int, height: int, mode: ResizeMode) -> Array:
    """A photograph resized as the WebUI resizes an init image, so that both stay aligned.

    Lanczos, channel by channel; aspect-true sizes round down, and the bars of OUTER_FIT repeat the edge.
    Source of the geometry: resize_image, A1111 1.10.
    """
    h, w = picture.shape[:2]
    if mode == ResizeMode.RESIZE:
        return _lanczos(picture, width, height)
    target_is_wider = width * h > w * height
    if target_is_wider == (mode == ResizeMode.INNER_FIT):
        scaled = _lanczos(picture, width, max(1, h * width // w))
    else:
        scaled = _lanczos(picture, max(1, w * height // h), height)
    scaled_h, scaled_w = scaled.shape[:2]
    top, left = height // 2 - scaled_h // 2, width // 2 - scaled_w // 2
    if mode == ResizeMode.INNER_FIT:
        return scaled[-top : height - top, -left : width - left]
    below, right = height - scaled_h - top, width - scaled_w - left
    filled = cv2.copyMakeBorder(scaled, top, below, left, right, cv2.BORDER_REPLICATE)
    return np.atleast_3d(filled)  # OpenCV drops a lone channel


def crop_region(mask: Array, padding: int) -> Box | None:
    """The box around all that is not 0 in "H W", `padding` px larger within the picture; None if all is 0."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    height, width = mask.shape
    return Box(
        max(int(columns[0]) - padding, 0),
        max(int(rows[0]) - padding, 0),
        min(int(columns[-1]) + 1 + padding, width),
        min(int(rows[-1]) + 1 + padding, height),
    )


def expand_to_aspect(box: Box, width: int, height: int, image_w: int, image_h: int) -> Box:
    """The box grown along one axis to the aspect ratio of `width` and `height`, as far as the picture goes.

    Source: expand_crop_region, A1111 1.10; the same float arithmetic, so that control and init image agree.
    """
    left, top, right, bottom = box
    ratio = width / height
    if (right - left) / (bottom - top) > ratio:
        top, bottom = _grown(top, bottom, (right - left) / ratio, image_h)
    else:
        left, right = _grown(left, right, (bottom - top) * ratio, image_w)
    return Box(left, top, right, bottom)


def crop(picture: Array, box: Box, width: int, height: int) -> Array:
    """The box of a picture at the job's size, as the WebUI cuts the init image for "Only masked".

    `box` is in px of the init image: a picture of another size goes through `resample` to that size first.
    """
    return resample(picture[box.top : box.bottom, box.left : box.right], width, height, ResizeMode.OUTER_FIT)


def _grown(start: int, end: int, length: float, limit: int) -> tuple[int, int]:
    """The interval widened evenly to `length`, pushed back into 0..limit, and cut there."""
    extra = int(length - (end - start))
    start, end = start - extra // 2, end + extra - extra // 2
    beyond = max(end - limit, 0)
    start, end = start - beyond, end - beyond
    missing = max(-start, 0)
    return start + missing, min(end + missing, limit)


def _centred(size: int, within: int) -> slice:
    start = (within - size) // 2
    return slice(start, start + size)


def _lanczos(picture: Array, width: int, height: int) -> Array:
    channels = [Image.fromarray(channel) for channel in np.moveaxis(picture, 2, 0)]
    resized = [channel.resize((width, height), Image.Resampling.LANCZOS) for channel in channels]
    return np.dstack([np.asarray(channel) for channel in resized])


def _colour_count(colours: Array) -> int:
    wide = colours.astype(np.uint32)
    seen = np.zeros(1 << 24, np.bool_)
    seen[wide[:, :, 0] << 16 | wide[:, :, 1] << 8 | wide[:, :, 2]] = True
    return int(np.count_nonzero(seen))


def _is_line_drawing(binary: Array) -> bool:
    """Whether opening by 3x3 px removes more than half of the white."""
    opened = cv2.morphologyEx(binary, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return bool(2 * np.count_nonzero(opened < binary) > np.count_nonzero(binary > 127))


def _binary_lines(grey: Array, *, prune: bool) -> Array:
    """White lines of one pixel along the ridges of `grey`; `prune` cuts the spurs that enlarging leaves."""
    lines = _otsu(_ridges(grey))
    for _ in range(32):
        thinner = _without_hits(lines, _THINNING)
        if np.array_equal(thinner, lines):
            break
        lines = thinner
    return _without_hits(lines, _PRUNING) if prune else lines


def _ridges(grey: Array) -> Array:
    """`grey` where it is a maximum along one of the four lines of 3 px through the pixel, 0 elsewhere."""
    across, falling = np.ones((1, 3), np.uint8), np.eye(3, dtype=np.uint8)
    lines = across, across.reshape(3, 1), falling, np.fliplr(falling).copy()
    return np.where(np.any([cv2.dilate(grey, line) == grey for line in lines], axis=0), grey, np.uint8(0))


def _otsu(grey: Array) -> Array:
    binary: Array = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1]
    return binary


def _turned(*patterns: list[list[int]]) -> list[NDArray[np.int8]]:
    return [np.rot90(np.array(pattern, np.int8), turn).copy() for turn in range(4) for pattern in patterns]


# Hit-or-miss patterns, 1 white, -1 black, 0 either: Golay's letter L for thinning, line ends for pruning.
_THINNING = _turned([[-1, -1, -1], [0, 1, 0], [1, 1, 1]], [[0, -1, -1], [1, 1, -1], [0, 1, 0]])
_PRUNING = _turned([[-1, -1, -1], [-1, 1, -1], [0, 0, -1]], [[-1, -1, -1], [-1, 1, -1], [-1, 0, 0]])


def _without_hits(binary: Array, patterns: list[NDArray[np.int8]]) -> Array:
    """One round of removing what each pattern hits; beyond the picture all is black."""
    left = cv2.copyMakeBorder(binary, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    for pattern in patterns:
        left = cv2.subtract(left, cv2.morphologyEx(left, cv2.MORPH_HITMISS, pattern))
    remaining: Array = left[1:-1, 1:-1]
    return remaining
