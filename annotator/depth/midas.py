"""Depth by MiDaS, near is bright; and surface normals computed from that depth.

Source: R. Ranftl and others, Vision Transformers for Dense Prediction, 2021 (DPT-Hybrid), trained as MiDaS 3.
The normals are those that ControlNet 1.0's normal model learned from.
"""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, below, filled, pixels
from controlstack.packages import controlnet_aux
from controlstack.preprocess import Ask, Preprocessor, Slider, at_resolution, register
from controlstack.strokes import levels

WEIGHTS = File(
    repository="lllyasviel/ControlNet",
    path="annotator/ckpts/dpt_hybrid-midas-501f0c75.pt",
    folder="midas",
    licence="MIT",
    sha256="501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853",
    size=492_757_791,
)
STEEPNESS = 2 * np.pi
"""Length of a normal's third part, beside gradients in the network's units."""

Depth: TypeAlias = NDArray[np.float32]


def _depth(picture: Array, ask: Ask) -> tuple[Depth, Depth]:
    """Inverse depth "h w" in the network's units, and spread over 0..1."""
    network = ask.networks.get(WEIGHTS, _network)
    found = network(pixels(picture, network) / 127.5 - 1)[0].float().cpu()
    above = found - found.min()
    return found.numpy(), (above / above.max().clamp(min=torch.finfo(torch.float32).tiny)).numpy()


def _network(state: State) -> nn.Module:
    model = controlnet_aux("midas.midas.dpt_depth").DPTDepthModel
    return filled(model(path=None, backbone="vitb_rn50_384", non_negative=True), below(state, "model."))


@at_resolution
def depth_midas(picture: Array, ask: Ask) -> Array:
    """Depth, over the whole range of grey."""
    return hwc3(levels(_depth(picture, ask)[1]))


@at_resolution
def normal_midas(picture: Array, ask: Ask) -> Array:
    """Normals, z in red and x in blue; flat where the depth is below `ask.a` (0..1), the background."""
    found, spread = _depth(picture, ask)
    background = spread < ask.a
    x, y = (cv2.Sobel(found, cv2.CV_32F, dx, 1 - dx, ksize=3) for dx in (1, 0))
    x[background] = 0
    y[background] = 0
    normal = np.stack([x, y, np.full_like(x, STEEPNESS)], axis=2)
    normal /= np.sum(normal**2.0, axis=2, keepdims=True) ** 0.5
    return np.ascontiguousarray((normal * 127.5 + 127.5).clip(0, 255).astype(np.uint8)[:, :, ::-1])


register(
    Preprocessor(
        name="depth",
        run=depth_midas,
        label="depth_midas",
        control_types=("Depth",),
        priority=100,
        network="MiDaS 3, DPT-Hybrid",
        files=(WEIGHTS,),
        packages=("controlnet_aux", "timm"),
    )
)
register(
    Preprocessor(
        name="normal_map",
        run=normal_midas,
        label="normal_midas",
        control_types=("NormalMap",),
        a=Slider("Normal Background Threshold", 0, 1, 0.01, 0.4),
        network="MiDaS 3, DPT-Hybrid",
        files=(WEIGHTS,),
        packages=("controlnet_aux", "timm"),
    )
)
