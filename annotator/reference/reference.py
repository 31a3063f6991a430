"""The picture itself, for control that looks at it through the checkpoint and needs no model."""

from __future__ import annotations

from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, Slider, register


def reference(image: Array, ask: Ask) -> Array:
    """A copy."""
    return image.copy()


FIDELITY = Slider("Style Fidelity (only for Balanced mode)", 0, 1, 0.01, 0.5)

for name, companion, priority in (
    ("reference_only", "reference by attention", 100),
    ("reference_adain", "reference by statistics", 0),
    ("reference_adain+attn", "reference by both", 0),
):
    register(
        Preprocessor(
            name=name,
            run=reference,
            label=name,
            control_types=("Reference",),
            priority=priority,
            resolution=None,
            a=FIDELITY,
            needs_model=False,
            companions=(companion,),
            whole=True,
        )
    )
