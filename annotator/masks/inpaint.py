"""The picture with its mask, for models that repaint what is masked.

Both preprocessors make the same map; with `inpaint_only` the job also leaves unchanged what is not masked.
Checkpoints for inpainting are shown it too.
"""

from __future__ import annotations

import numpy as np

from controlstack.errors import ControlError
from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, register


def inpaint(image: Array, ask: Ask) -> Array:
    """ "H W 4": the picture, and the mask (255 is repainted). Raises ControlError without a mask."""
    if ask.mask is None:
        raise ControlError(
            "Inpainting needs a mask",
            "Nothing says which part of the picture to repaint",
            "Paint one on the unit's picture, or send `mask`",
        )
    return np.dstack([image, ask.mask])


register(
    Preprocessor(
        name="inpaint_only",
        run=inpaint,
        label="inpaint_only",
        control_types=("Inpaint",),
        priority=100,
        resolution=None,
        accepts_mask=True,
        requires_mask=True,
        companions=("keep unmasked", "inpaint checkpoint"),
    )
)
register(
    Preprocessor(
        name="inpaint",
        run=inpaint,
        label="inpaint_global_harmonious",
        companions=("inpaint checkpoint",),
        control_types=("Inpaint",),
        resolution=None,
        accepts_mask=True,
        requires_mask=True,
    )
)
