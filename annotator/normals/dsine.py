"""Surface normals by DSINE, under its known name: listed, and not available.

Source: G. Bae and A. J. Davison, Rethinking Inductive Biases for Surface Normal Estimation, 2024.
"""

from __future__ import annotations

from controlstack.errors import ControlError
from controlstack.preprocess import Slider, listed, register

register(
    listed(
        ControlError(
            "The network's code is in no package",
            "DSINE is published for non-commercial use, as a repository of its authors",
            "Use normal_bae, of the same first author",
        ),
        name="normal_dsine",
        label="normal_dsine",
        control_types=("NormalMap",),
        a=Slider("Fov", 0, 360, 0.1, 60),
        b=Slider("Iterations", 1, 20, 1, 5),
        network="DSINE",
    )
)
