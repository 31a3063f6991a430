"""Line art of photographs: white lines on black as an illustrator would draw them, fine or coarse.

Source: C. Chan, F. Durand and P. Isola, Informative Drawings, 2022.
"""

from __future__ import annotations

from torch import nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, filled, pixels
from controlstack.packages import controlnet_aux
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register
from controlstack.strokes import levels

FINE = File(
    repository="lllyasviel/Annotators",
    path="sk_model.pth",
    folder="lineart",
    licence="MIT",
    sha256="c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6",
    size=17_173_511,
)
COARSE = File(
    repository="lllyasviel/Annotators",
    path="sk_model2.pth",
    folder="lineart",
    licence="MIT",
    sha256="30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0",
    size=17_173_511,
)


@at_resolution
def _lines(picture: Array, ask: Ask, weights: File) -> Array:
    network = ask.networks.get(weights, _network)
    drawing = network(pixels(picture, network) / 255)[0, 0]
    return hwc3(~levels(drawing.float().cpu().numpy()))


def _network(state: State) -> nn.Module:
    return filled(controlnet_aux("lineart").Generator(3, 1, 3), state)


def lineart(image: Array, ask: Ask) -> Array:
    """Fine lines."""
    return _lines(image, ask, FINE)


def lineart_coarse(image: Array, ask: Ask) -> Array:
    """Coarse lines."""
    return _lines(image, ask, COARSE)


for name, label, run, weights in (
    ("lineart", "lineart_realistic", lineart, FINE),
    ("lineart_coarse", "lineart_coarse", lineart_coarse, COARSE),
):
    register(
        Preprocessor(
            name=name,
            run=run,
            label=label,
            control_types=("Lineart",),
            network="Informative Drawings",
            files=(weights,),
            packages=("controlnet_aux", "einops"),
        )
    )
