"""Soft edges by HED: grey outlines of what people would draw, thick where the network is sure.

Source: S. Xie and Z. Tu, Holistically-Nested Edge Detection, 2015, as trained anew for ControlNet 1.1. Its
scribbles are the same edges as thin strokes.
"""

from __future__ import annotations

from torch import nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, filled, pixels
from controlstack.packages import controlnet_aux
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register
from controlstack.strokes import levels, mean_of_scales, safe_steps, scribble

WEIGHTS = File(
    repository="lllyasviel/Annotators",
    path="ControlNetHED.pth",
    folder="hed",
    licence="Apache-2.0",
    sha256="5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa",
    size=29_444_406,
)


@at_resolution
def _edges(picture: Array, ask: Ask, steps: int) -> Array:
    height, width = picture.shape[:2]
    network = ask.networks.get(WEIGHTS, _network)
    scales = [scale[0, 0].float().cpu().numpy() for scale in network(pixels(picture, network))]
    return levels(safe_steps(mean_of_scales(scales, width, height), steps))


def _network(state: State) -> nn.Module:
    return filled(controlnet_aux("hed").ControlNetHED_Apache2(), state)


def hed(image: Array, ask: Ask) -> Array:
    """Grey edges on black."""
    return hwc3(_edges(image, ask, 0))


def hed_safe(image: Array, ask: Ask) -> Array:
    """Edges in four levels, which keep less of the picture."""
    return hwc3(_edges(image, ask, 2))


def scribble_hed(image: Array, ask: Ask) -> Array:
    """White strokes on black."""
    return hwc3(scribble(_edges(image, ask, 0)))


for name, label, run, control_types in (
    ("hed", "softedge_hed", hed, ("SoftEdge",)),
    ("hed_safe", "softedge_hedsafe", hed_safe, ("SoftEdge",)),
    ("scribble_hed", "scribble_hed", scribble_hed, ("Scribble", "SparseCtrl")),
):
    register(
        Preprocessor(
            name=name,
            run=run,
            label=label,
            control_types=control_types,
            network="HED, retrained for ControlNet 1.1",
            files=(WEIGHTS,),
            packages=("controlnet_aux", "einops"),
        )
    )
