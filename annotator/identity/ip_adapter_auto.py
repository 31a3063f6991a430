"""The preprocessor with which an IP-Adapter was made, whichever that is: the file's tensors tell."""

from __future__ import annotations

from controlstack.image import Array
from controlstack.preprocess import Ask, Preprocessor, register


def shown(image: Array, ask: Ask) -> Array:
    """The picture itself."""
    return image.copy()


register(
    Preprocessor(
        name="ip-adapter-auto",
        run=shown,
        label="ip-adapter-auto",
        control_types=("IP-Adapter",),
        priority=1000,
        resolution=None,
        shows_control_mode=False,
        delegates=True,
    )
)
