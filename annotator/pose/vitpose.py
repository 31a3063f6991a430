"""Everybody by RT-DETR and ViTPose, drawn as OpenPose's skeletons; both are free for any use.

Source: Y. Zhao and others, DETRs Beat YOLOs on Real-time Object Detection, 2023; Y. Xu and others, ViTPose:
Simple Vision Transformer Baselines for Human Pose Estimation, 2022; F. Zhang and others, Distribution-Aware
Coordinate Representation (DARK), 2020, and J. Huang and others, The Devil is in the Details (UDP), 2020, for
where a point lies in its heatmap. The numbers are those of both repositories' configurations.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controlstack.downloads import File
from controlstack.geometry import padded
from controlstack.image import Array
from controlstack.networks import State, filled, of_transformers
from controlstack.packages import take
from controlstack.pose import MAX_FIGURES, Person, Points, Pose, body_of_coco
from controlstack.preprocess import Ask, poser, register

Floats: TypeAlias = NDArray[np.float64]

DETECTOR = File(
    repository="PekingU/rtdetr_r50vd_coco_o365",
    path="model.safetensors",
    folder="rtdetr",
    licence="Apache-2.0",
    saved_as="rtdetr_r50vd_coco_o365.safetensors",
)
VITPOSE = File(
    repository="usyd-community/vitpose-base-simple",
    path="model.safetensors",
    folder="vitpose",
    licence="Apache-2.0",
    saved_as="vitpose-base-simple.safetensors",
)

SIDE = 640
"""px of what the detector sees, whatever the picture's aspect"""
CLASSES, PERSON = 80, 0
"""COCO's"""
LIKELY = 0.3
"""Of a person, and of a point, to count."""
WIDTH, HEIGHT = 192, 256
"""px of what the second network sees of a person"""
MARGIN = 1.25
"""By how much that is larger than the box."""
MEAN, DEVIATION = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
"""Of ImageNet."""
_NOTHING: Points = np.empty((0, 3))


def bodies(image: Array, ask: Ask) -> Pose:
    """Everybody's body."""
    picture, crop = padded(image, ask.resolution)
    height, width = (part.stop for part in crop)
    boxes = _boxes(picture, ask.networks.get(DETECTOR, _detector))
    if not len(boxes):
        return Pose(width, height)
    network = ask.networks.get(VITPOSE, _vitpose)
    seen, scales, shifts = zip(*(_framed(picture, box) for box in boxes), strict=True)
    with torch.no_grad():
        heat = network(_tensor(np.stack(seen), network)).heatmaps.float().cpu().double().numpy()
    found = []
    for maps, scale, shift in zip(heat, scales, shifts, strict=True):
        spots = _peaks(maps) * ((WIDTH - 1) / (maps.shape[2] - 1), (HEIGHT - 1) / (maps.shape[1] - 1))
        points = np.column_stack([(spots - shift) / scale, maps.max(axis=(1, 2)) > LIKELY])
        found.append(Person(body_of_coco(points), _NOTHING, _NOTHING, _NOTHING))
    return Pose(width, height, tuple(found))


def _boxes(picture: Array, detector: nn.Module) -> Floats:
    """Left, top, right and bottom, px, of everybody, the surest first."""
    height, width = picture.shape[:2]
    seen = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) / 255
    with torch.no_grad():
        found = detector(_tensor(seen[None], detector))
    likely = found.logits[0, :, PERSON].float().sigmoid()
    order = likely.argsort(descending=True)[: min(int((likely > LIKELY).sum()), MAX_FIGURES)]
    boxes = found.pred_boxes[0, order].double().cpu().numpy() * (width, height, width, height)
    return np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2])


def _framed(picture: Array, box: Floats) -> tuple[Floats, Floats, Floats]:
    """The person in a box as the network sees it, "256 192 3", and scale and shift from px to its pixels.

    Corners are the middles of corner pixels, so that a mirrored picture has mirrored points (UDP).
    """
    across, along = (box[2:] - box[:2]) * MARGIN
    across = max(across, along * WIDTH / HEIGHT)
    size = np.array((across, across * HEIGHT / WIDTH))
    scale = np.array((WIDTH - 1, HEIGHT - 1)) / size
    shift = scale * (size / 2 - (box[:2] + box[2:]) / 2)
    matrix = np.column_stack([np.diag(scale), shift])
    seen = cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    return (seen / 255 - MEAN) / DEVIATION, scale, shift


def _peaks(heat: Floats) -> Floats:
    """Where maps "N h w" are highest, x and y: a step of Newton's method from the highest cell."""
    smooth = [cv2.GaussianBlur(one, (11, 11), 0.8, borderType=cv2.BORDER_REFLECT) for one in heat]
    logarithm = np.pad(np.log(np.clip(smooth, 0.001, 50)), ((0, 0), (1, 1), (1, 1)), mode="edge")
    spots = []
    for one, around in zip(heat, logarithm, strict=True):
        y, x = np.unravel_index(one.argmax(), one.shape)
        (near, above, _), (left, here, right), (_, below, far) = around[y : y + 3, x : x + 3]
        slope = np.array([right - left, below - above]) / 2
        across = (far - right - below + 2 * here - left - above + near) / 2
        bend = np.array([[right - 2 * here + left, across], [across, below - 2 * here + above]])
        spots.append((x, y) - np.linalg.solve(bend + np.finfo(np.float32).eps * np.eye(2), slope))
    return np.array(spots)


def _tensor(pictures: NDArray[np.floating[Any]], network: nn.Module) -> Tensor:
    """ "B H W 3" as "B 3 H W" where the network is."""
    device = next(network.parameters()).device
    return torch.from_numpy(pictures).float().permute(0, 3, 1, 2).to(device)


def _detector(state: State) -> nn.Module:
    """RT-DETR of ResNet-50, loaded by transformers, whose names have changed since the file was written."""
    config, model = (take("transformers", name) for name in ("RTDetrConfig", "RTDetrForObjectDetection"))
    heads = ("class_embed.", "bbox_embed.")  # shared with the decoder, whose names stand for both
    state = {f"model.decoder.{name}" if name.startswith(heads) else name: at for name, at in state.items()}
    return of_transformers(model, config(num_labels=CLASSES), state)


def _vitpose(state: State) -> nn.Module:
    """ViTPose with its simple decoder, of the state's sizes; heads are 64 wide."""
    positions = state["backbone.embeddings.position_embeddings"]
    layers = sum(name.endswith("layernorm_before.weight") for name in state)
    backbone = take("transformers", "VitPoseBackboneConfig")(
        hidden_size=positions.shape[2],
        num_hidden_layers=layers,
        num_attention_heads=positions.shape[2] // 64,
        out_indices=[layers],
    )
    config = take("transformers", "VitPoseConfig")(
        backbone_config=backbone, num_labels=len(state["head.conv.bias"])
    )
    return filled(take("transformers", "VitPoseForPoseEstimation")(config), state)


register(
    poser(
        bodies,
        name="openpose_vitpose",
        label="openpose_vitpose",
        network="RT-DETR, ResNet-50, and ViTPose, base",
        files=(DETECTOR, VITPOSE),
        packages=("transformers",),
    )
)
