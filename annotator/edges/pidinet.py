"""Soft edges by PiDiNet: crisper than HED's, with less texture.

Source: Z. Su and others, Pixel Difference Networks for Efficient Edge Detection, 2021; its authors ask to be
contacted before commercial use. The network reads BGR. The variants are those of ControlNet 1.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, filled, pixels
from controlstack.packages import controlnet_aux
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register
from controlstack.strokes import levels, safe_steps, scribble

WEIGHTS = File(
    repository="lllyasviel/Annotators",
    path="table5_pidinet.pth",
    folder="pidinet",
    licence="research only, ask its authors for commercial use",
    sha256="80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c",
    size=2_871_148,
    placed_by_user=True,
)


@at_resolution
def _edges(picture: Array, ask: Ask) -> NDArray[np.float32]:
    """Edges "h w", 0..1."""
    network = ask.networks.get(WEIGHTS, _network)
    edges = network(pixels(picture[:, :, ::-1], network) / 255)[-1]
    return np.asarray(edges[0, 0].float().cpu().numpy())


def _network(state: State) -> nn.Module:
    return filled(controlnet_aux("pidi.model").pidinet(), state)


def pidinet(image: Array, ask: Ask) -> Array:
    """Grey edges on black."""
    return hwc3(levels(_edges(image, ask)))


def pidinet_safe(image: Array, ask: Ask) -> Array:
    """Edges in four levels, which keep less of the picture."""
    return hwc3(levels(safe_steps(_edges(image, ask), 2)))


def pidinet_sketch(image: Array, ask: Ask) -> Array:
    """White where an edge is likelier than not: what T2I-Adapter's sketch model reads."""
    return hwc3(levels((_edges(image, ask) > 0.5).astype(np.float32)))


def pidinet_scribble(image: Array, ask: Ask) -> Array:
    """White strokes on black."""
    return hwc3(scribble(levels(_edges(image, ask))))


for name, label, run, control_types, priority in (
    ("pidinet", "softedge_pidinet", pidinet, ("SoftEdge",), 100),
    ("pidinet_safe", "softedge_pidisafe", pidinet_safe, ("SoftEdge",), 0),
    ("pidinet_sketch", "t2ia_sketch_pidi", pidinet_sketch, ("T2I-Adapter",), 0),
    ("pidinet_scribble", "scribble_pidinet", pidinet_scribble, ("Scribble", "SparseCtrl"), 100),
):
    register(
        Preprocessor(
            name=name,
            run=run,
            label=label,
            control_types=control_types,
            priority=priority,
            network="PiDiNet, table 5",
            files=(WEIGHTS,),
            packages=("controlnet_aux",),
        )
    )
