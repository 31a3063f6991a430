"""The picture as it is: for maps made elsewhere, and for models that read photographs."""

from __future__ import annotations

import numpy as np

from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, register


def none(image: Array, _ask: Ask) -> Array:
    """A copy."""
    return np.copy(image)


register(
    Preprocessor(
        name="none",
        run=none,
        label="none",
        control_types=("InstructP2P",),
        priority=10,
        resolution=None,
    )
)
