"""Masks of inpainting."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageOps

from controlstack import geometry

Region = tuple[int, int, int, int]


def prepare(mask: Image.Image, blur_x: int, blur_y: int, *, invert: bool) -> Image.Image:
    """A mask as one channel, 255 where it is painted: its alpha if any, inverted and blurred on demand.

    The blurs are standard deviations in px along each axis.
    Source: StableDiffusionProcessingImg2Img.init, A1111 1.10.
    """
    if mask.mode == "RGBA" and mask.getextrema()[-1] != (255, 255):
        mask = mask.getchannel("A").point(lambda value: 255 * (value > 128))
    mask = mask.convert("L")
    pixels = np.asarray(ImageOps.invert(mask) if invert else mask)
    if blur_x > 0:
        pixels = cv2.GaussianBlur(pixels, (_kernel(blur_x), 1), blur_x)
    if blur_y > 0:
        pixels = cv2.GaussianBlur(pixels, (1, _kernel(blur_y)), blur_y)
    return Image.fromarray(pixels)


def _kernel(sigma: float) -> int:
    return 2 * int(2.5 * sigma + 0.5) + 1


def get_crop_region(mask: Image.Image, pad: int = 0) -> Region | None:
    """The box around what is masked, `pad` px larger within the picture; None if nothing is."""
    return geometry.crop_region(np.asarray(mask.convert("L")), pad)


def expand_crop_region(
    crop_region: Region, processing_width: int, processing_height: int, image_width: int, image_height: int
) -> Region:
    """The box grown to the aspect ratio that it will be painted at, as far as the picture goes."""
    box = geometry.Box(*crop_region)
    return geometry.expand_to_aspect(box, processing_width, processing_height, image_width, image_height)


def fill(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The masked area filled with the colours around it, ever finer towards its edge.

    Each round averages what is kept over a smaller neighbourhood, and covers the last wherever it reaches.
    """
    colours = np.asarray(image.convert("RGB"), np.float32)
    keep = 1 - np.asarray(mask.convert("L"), np.float32)[:, :, None] / 255
    filled = np.broadcast_to(colours.mean(axis=(0, 1)), colours.shape)
    for sigma in (256, 64, 16, 4, 2):
        reach = cv2.GaussianBlur(keep, (0, 0), sigma)[:, :, None]
        blurred = cv2.GaussianBlur(colours * keep, (0, 0), sigma)
        share = np.clip(reach * 4, 0, 1)
        filled = blurred / np.maximum(reach, 1e-6) * share + filled * (1 - share)
    result = colours * keep + filled * (1 - keep)
    return Image.fromarray(result.round().clip(0, 255).astype(np.uint8))
