"""Pictures in JSON."""

from __future__ import annotations

import base64
import io

from modules import images
from PIL import Image

from controlstack import image as pictures


def decode_base64_to_image(encoding: str) -> Image.Image:
    """A picture from base64 or a data URI. Raises ControlError for anything else."""
    return Image.fromarray(pictures.decode(encoding))


def encode_pil_to_base64(image: Image.Image) -> bytes:
    """The picture as base64 PNG, with the infotext it carries."""
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=images.png_info(image.info.get("parameters")))
    return base64.b64encode(file.getvalue())
