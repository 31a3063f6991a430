"""The picture as it is, for tile models that keep its colours.

The sliders are for the colour fix during sampling: over how many latent cells colours may vary, and how much
sharper the result gets.
"""

from __future__ import annotations

import numpy as np

from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, Slider, register


def tile_colorfix(image: Array, _ask: Ask) -> Array:
    """A copy."""
    return np.copy(image)


VARIATION = Slider("Variation", 3, 32, 1, 8)

register(
    Preprocessor(
        name="tile_colorfix",
        run=tile_colorfix,
        label="tile_colorfix",
        control_types=("Tile",),
        resolution=None,
        a=VARIATION,
        companions=("colour fix",),
    )
)
register(
    Preprocessor(
        name="tile_colorfix+sharp",
        run=tile_colorfix,
        label="tile_colorfix+sharp",
        control_types=("Tile",),
        resolution=None,
        a=VARIATION,
        b=Slider("Sharpness", 0, 2, 0.01, 1),
        companions=("colour fix",),
    )
)
