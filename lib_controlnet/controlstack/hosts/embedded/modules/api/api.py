"""Pictures in JSON."""

from __future__ import annotations

import base64
import binascii
import io

from modules import images
from PIL import Image

from controlstack import image as pictures
from controlstack.errors import ControlError


def decode_base64_to_image(encoding: str) -> Image.Image:
    """A picture from base64 or a data URI. Raises ControlError for anything else."""
    return Image.fromarray(pictures.decode(encoding))


def open_base64(encoding: str) -> Image.Image:
    """The same with what is written in the file, its pixels not read yet. Raises ControlError likewise."""
    data = encoding.partition(",")[2] if encoding[:5].lower() == "data:" else encoding
    try:
        return Image.open(io.BytesIO(base64.b64decode(data)), formats=pictures.FORMATS)
    except (OSError, ValueError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise ControlError("The picture cannot be read", fix="Send the picture itself as base64") from error


def encode_pil_to_base64(image: Image.Image) -> bytes:
    """The picture as base64 PNG, with the infotext it carries."""
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=images.png_info(image.info.get("parameters")))
    return base64.b64encode(file.getvalue())
