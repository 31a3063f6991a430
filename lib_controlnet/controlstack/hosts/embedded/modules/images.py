"""Pictures: fitting and saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from controlstack import geometry
from controlstack.unit import ResizeMode


def resize_image(resize_mode: int, im: Image.Image, width: int, height: int) -> Image.Image:
    """Fit a picture to a size: 0 stretches, 1 crops, 2 fills up with edge pixels; Lanczos."""
    if im.mode == "L":
        return resize_image(resize_mode, im.convert("RGB"), width, height).getchannel(0)
    return Image.fromarray(geometry.resample(np.asarray(im), width, height, ResizeMode(resize_mode)))


def flatten(img: Image.Image, bgcolor: str = "#ffffff") -> Image.Image:
    """RGB, with what is transparent on a plain background."""
    if img.mode != "RGBA":
        return img.convert("RGB")
    background = Image.new("RGBA", img.size, bgcolor)
    return Image.alpha_composite(background, img).convert("RGB")


def png_info(text: str | None) -> PngImagePlugin.PngInfo:
    """The infotext where WebUIs look for it."""
    info = PngImagePlugin.PngInfo()
    if text:
        info.add_text("parameters", text)
    return info


_USER_COMMENT = 0x9286
_EXIF_IFD = 0x8769
_CODES = {b"UNICODE\0": "utf-16-be", b"ASCII\0\0\0": "ascii", b"\0" * 8: "utf-8"}
"""How a UserComment's first eight bytes say what follows. Source: Exif 2.3, 4.6.5."""


def read_info_from_image(image: Image.Image) -> tuple[str | None, dict[str, str]]:
    """The infotext a picture carries, from its PNG text or its EXIF comment, and its other texts."""
    texts = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    infotext = texts.pop("parameters", None)
    comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    if isinstance(comment, bytes) and comment[:8] in _CODES:
        infotext = infotext or comment[8:].decode(_CODES[comment[:8]], errors="replace")
    return infotext, texts


def save_image(image: Image.Image, path: str | Path, basename: str, *, info: str | None = None) -> Path:
    """Save as PNG in the folder, numbered onwards. Returns the file."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    taken = (int(file.name[:5]) for file in folder.glob("*.png") if file.name[:5].isdigit())
    file = folder / f"{max(taken, default=-1) + 1:05}-{basename}.png"
    image.save(file, pnginfo=png_info(info))
    return file
