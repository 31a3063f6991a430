"""Bodies by DensePose: each of its 24 parts in a colour of its own, on one ground.

Source: R. A. Güler and others, DensePose: Dense Human Pose Estimation in the Wild, 2018, as a TorchScript
file that needs no detectron2. The colours are those that models for it learned from: MATLAB's parula on black
for one, viridis on its own darkest purple for the other.
"""

from __future__ import annotations

from functools import partial, update_wrapper
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from controlstack.downloads import File
from controlstack.image import Array
from controlstack.packages import bring
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register

WEIGHTS = File(
    repository="LayerNorm/DensePose-TorchScript-with-hint-image",
    path="densepose_r50_fpn_dl.torchscript",
    folder="densepose",
    licence="CC-BY-SA-3.0, as detectron2's models",
)
PARTS = 24
PURPLE = (68, 1, 84)
"""The darkest colour of viridis"""


@at_resolution
def densepose(picture: Array, ask: Ask, colours: int, ground: tuple[int, int, int]) -> Array:
    """Everybody's parts in an OpenCV colour map; who is found later covers who was found before."""
    network = ask.networks.open(WEIGHTS, _network)
    seen = torch.from_numpy(picture).to(ask.networks.device).permute(2, 0, 1)
    boxes, bodies, parts, *_ = network(seen)
    canvas = np.full_like(picture, ground)
    for box, body, part in zip(boxes.tolist(), bodies.float(), parts.float(), strict=True):
        left, top = (int(side) for side in box[:2])
        labels = _labels(body, part, max(int(box[2] - box[0]), 1), max(int(box[3] - box[1]), 1))
        target = canvas[max(top, 0) : top + labels.shape[0], max(left, 0) : left + labels.shape[1]]
        labels = labels[max(-top, 0) :, max(-left, 0) :][: target.shape[0], : target.shape[1]]
        levels = (labels.astype(np.float32) * np.float32(255 / PARTS)).astype(np.uint8)
        painted = cv2.applyColorMap(levels, colours)[:, :, ::-1]
        target[labels > 0] = painted[labels > 0]
    return canvas


def _labels(body: Tensor, parts: Tensor, width: int, height: int) -> Array:
    """The part at each pixel of a box, 0 beside the body, from scores "2 h w" and "25 h w"."""
    body, parts = (
        nn.functional.interpolate(scores[None], (height, width), mode="bilinear").argmax(dim=1)[0]
        for scores in (body, parts)
    )
    labels: Array = (parts * (body > 0)).cpu().numpy().astype(np.uint8)
    return labels


def _network(path: Path) -> nn.Module:
    bring("torchvision")  # whose operators the file calls
    network: nn.Module = torch.jit.load(str(path), map_location="cpu")
    return network


for _name, _label, _colours, _ground in (
    ("densepose", "densepose (pruple bg & purple torso)", cv2.COLORMAP_VIRIDIS, PURPLE),
    ("densepose_parula", "densepose_parula (black bg & blue torso)", cv2.COLORMAP_PARULA, (0, 0, 0)),
):
    register(
        Preprocessor(
            name=_name,
            run=update_wrapper(partial(densepose, colours=_colours, ground=_ground), densepose),
            label=_label,
            control_types=("OpenPose",),
            network="DensePose, ResNet-50",
            files=(WEIGHTS,),
            packages=("torchvision",),
        )
    )
