"""Line art of anime pictures: white lines on black as an animator's drawing.

Source: X. Xiang and others, Anime2Sketch, 2021: a U-Net that reads multiples of 256 px.
"""

from __future__ import annotations

from functools import partial

import cv2
from torch import nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, filled, pixels
from controlstack.packages import controlnet_aux
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register

WEIGHTS = File(
    repository="lllyasviel/Annotators",
    path="netG.pth",
    folder="lineart_anime",
    licence="MIT",
    sha256="ccabdcc3f5cf3c07cf65d58776acb21df7dfda825cdc70c9766a93fd62bfc488",
    size=217_631_959,
)


@at_resolution
def lineart_anime(picture: Array, ask: Ask) -> Array:
    """White lines; the picture is stretched to what the network reads, and its lines back."""
    height, width = picture.shape[:2]
    read = (width + -width % 256, height + -height % 256)
    stretched = cv2.resize(picture, read, interpolation=cv2.INTER_CUBIC)
    network = ask.networks.get(WEIGHTS, _network)
    drawing = network(pixels(stretched, network) / 127.5 - 1)[0, 0] * 127.5 + 127.5
    drawing = cv2.resize(drawing.float().cpu().numpy(), (width, height), interpolation=cv2.INTER_CUBIC)
    return hwc3(~drawing.clip(0, 255).astype("uint8"))


def _network(state: State) -> nn.Module:
    norm = partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
    return filled(controlnet_aux("lineart_anime").UnetGenerator(3, 1, 8, 64, norm_layer=norm), state)


register(
    Preprocessor(
        name="lineart_anime",
        run=lineart_anime,
        label="lineart_anime",
        control_types=("Lineart",),
        network="Anime2Sketch",
        files=(WEIGHTS,),
        packages=("controlnet_aux", "einops"),
    )
)
