"""Detected maps as files, where the incumbent puts them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def save(p: Any, folder: str, maps: Sequence[tuple[str, Image.Image]]) -> None:
    """Save each map of a job in a folder of its preprocessor's name; that of `none` is the user's picture.

    folder: below the job's folder of pictures, or an absolute path
    """
    from modules import images

    for preprocessor, picture in maps:
        if preprocessor != "none":
            images.save_image(picture, str(Path(p.outpath_samples, folder, preprocessor)), preprocessor)
