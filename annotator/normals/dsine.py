"""Surface normals by DSINE, under its known name: listed, and not available.

Source: G. Bae and A. J. Davison, Rethinking Inductive Biases for Surface Normal Estimation, 2024.
"""

from __future__ import annotations

from controlstack.errors import ControlError
from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, Slider, register

BLOCKED = ControlError(
    "The network's code is in no package",
    "DSINE is published for non-commercial use, as a repository of its authors",
    "Use normal_bae, of the same first author",
)


def normal_dsine(_image: Array, _ask: Ask) -> Array:
    """Raises ControlError: see `BLOCKED`."""
    raise ControlError(*BLOCKED.args)


register(
    Preprocessor(
        name="normal_dsine",
        run=normal_dsine,
        label="normal_dsine",
        control_types=("NormalMap",),
        a=Slider("Fov", 0, 360, 0.1, 60),
        b=Slider("Iterations", 1, 20, 1, 5),
        network="DSINE",
        blocked=BLOCKED,
    )
)
