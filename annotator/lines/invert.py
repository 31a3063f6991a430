"""Inverted colours: black lines on white become white lines on black, which is what line models read."""

from __future__ import annotations

from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, register


def invert(image: Array, _ask: Ask) -> Array:
    """255 − x at every pixel."""
    return ~image


register(
    Preprocessor(
        name="invert",
        run=invert,
        label="invert (from white bg & black line)",
        control_types=("Canny", "Lineart", "Scribble", "MLSD"),
        priority=20,
        resolution=None,
    )
)
