"""No picture at all: the pictures of a batch take after each other."""

from __future__ import annotations

from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, register


def style_align(image: Array, ask: Ask) -> Array:
    """A copy."""
    return image.copy()


register(
    Preprocessor(
        name="style_align",
        run=style_align,
        label="style_align (the whole batch)",
        control_types=("Reference",),
        priority=-1,
        resolution=None,
        needs_model=False,
        needs_picture=False,
        companions=("style align",),
    )
)
