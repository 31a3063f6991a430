"""Whole bodies by DWPose and animals by RTMPose: a detector finds boxes, a second network points in each.

Source: Z. Yang and others, Effective Whole-body Pose Estimation with Two-stages Distillation, 2023; T. Jiang
and others, RTMPose, 2023; Z. Ge and others, YOLOX, 2021. The ONNX files and thresholds are those in use with
ControlNet 1.1; as there they are given RGB.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from controlstack import onnx
from controlstack.downloads import File
from controlstack.geometry import padded
from controlstack.image import Array
from controlstack.pose import Person, Points, Pose, body_of_coco
from controlstack.preprocess import Ask, poser, register

Floats: TypeAlias = NDArray[np.float32]

YOLOX = File(
    repository="yzd-v/DWPose",
    path="yolox_l.onnx",
    folder="openpose",
    licence="Apache-2.0",
    sha256="7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
    size=216_746_733,
)
DWPOSE = File(
    repository="yzd-v/DWPose",
    path="dw-ll_ucoco_384.onnx",
    folder="openpose",
    licence="Apache-2.0",
    sha256="724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843",
    size=134_399_116,
)
AP10K = File(
    repository="bdsqlsz/qinglong_controlnet-lllite",
    path="Annotators/rtmpose-m_simcc-ap10k_pt-aic-coco_210e-256x256-7a041aa1_20230206.onnx",
    folder="openpose",
    licence="Apache-2.0",
)

SIDE, STRIDES = 640, (8, 16, 32)
"""px of the detector's square, and of its cells"""
LIKELY = 0.3
"""Of a box, and of a person's point, to count."""
OVERLAP = 0.45
"""Share of the union from which two boxes hold the same figure."""
PERSON, ANIMALS = (0,), tuple(range(14, 24))
"""Classes of COCO: bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe."""
MARGIN = 1.25
"""By how much what the second network sees is larger than the box."""
MEAN, DEVIATION = np.float32((123.675, 116.28, 103.53)), np.float32((58.395, 57.12, 57.375))
"""Of ImageNet, in levels."""
PERSON_SIZE, ANIMAL_SIZE = (288, 384), (256, 256)
"""px of what the second networks see, width first"""


def whole_bodies(image: Array, ask: Ask) -> Pose:
    """Everybody with body, hands and face."""
    picture, crop = padded(image, ask.resolution)
    found = _figures(picture, ask, PERSON, DWPOSE, PERSON_SIZE)
    height, width = (part.stop for part in crop)
    return Pose(width, height, tuple(map(_person, found)))


def animals(image: Array, ask: Ask) -> Pose:
    """All animals; every point of one is shown, however unlikely."""
    picture, crop = padded(image, ask.resolution)
    found = _figures(picture, ask, ANIMALS, AP10K, ANIMAL_SIZE)
    height, width = (part.stop for part in crop)
    return Pose(width, height, animals=tuple(found))


def _person(points: Points) -> Person:
    """Of COCO-WholeBody's 133: body, feet, face, left and right hand. OpenPose's faces have the eyes too."""
    seen = np.column_stack([points[:, :2], points[:, 2] >= LIKELY])
    body = body_of_coco(seen[:17])
    return Person(body, seen[91:112], seen[112:133], np.vstack([seen[23:91], body[14:16]]))


def _figures(
    picture: Array, ask: Ask, classes: Iterable[int], file: File, size: tuple[int, int]
) -> list[Points]:
    """Points "N 3" of each figure: x and y in px, and how likely."""
    boxes = _boxes(picture, ask.networks.open(YOLOX, onnx.read), classes)
    if not boxes:
        return []
    network = ask.networks.open(file, onnx.read)
    return [_points(picture, box, network, size) for box in boxes]


def _boxes(picture: Array, detector: nn.Module, classes: Iterable[int]) -> list[Floats]:
    """Left, top, right and bottom, px, of each figure of these classes, the surest of a class first."""
    height, width = picture.shape[:2]
    scale = min(SIDE / height, SIDE / width)
    small = cv2.resize(picture, (int(width * scale), int(height * scale)), interpolation=cv2.INTER_LINEAR)
    seen = np.full((SIDE, SIDE, 3), 114, np.float32)
    seen[: small.shape[0], : small.shape[1]] = small
    (cells,) = _run(detector, seen)
    places, strides = _grid()
    middles = (cells[:, :2] + places) * strides
    halves = np.exp(cells[:, 2:4]) * strides / 2
    boxes = np.hstack([middles - halves, middles + halves]) / scale
    found: list[Floats] = []
    for number in classes:
        likely = cells[:, 4] * cells[:, 5 + number]
        order = np.argsort(-likely, kind="stable")
        found += _apart(boxes[order[likely[order] > LIKELY]])
    return found


def _run(network: nn.Module, seen: Floats) -> list[Floats]:
    """The outputs for one picture "H W 3"."""
    return [output[0].numpy() for output in network(torch.from_numpy(seen).permute(2, 0, 1)[None])]


def _grid() -> tuple[Floats, Floats]:
    """Of each of the detector's cells: its column and row, and its side in px."""
    places, strides = [], []
    for stride in STRIDES:
        count = SIDE // stride
        rows, columns = np.mgrid[:count, :count].reshape(2, -1)
        places.append(np.stack([columns, rows], axis=1))
        strides.append(np.full((count * count, 1), stride))
    return np.concatenate(places).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _apart(boxes: Floats) -> list[Floats]:
    """Of boxes, the surest first, those that do not overlap a surer one."""
    kept: list[Floats] = []
    for box in boxes:
        if all(_shared(box, other) <= OVERLAP for other in kept):
            kept.append(box)
    return kept


def _shared(one: Floats, other: Floats) -> float:
    """Intersection over union; a box that ends where it begins is one pixel wide."""
    common = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]) + 1
    both = float(np.prod(common.clip(0)))
    return both / (sum(float(np.prod(box[2:] - box[:2] + 1)) for box in (one, other)) - both)


def _points(picture: Array, box: Floats, network: nn.Module, size: tuple[int, int]) -> Points:
    """Points of the figure in a box, each where its row and its column are likeliest."""
    width, height = size
    across, along = (box[2:] - box[:2]) * MARGIN
    across = max(across, along * width / height)
    scale, middle = width / across, (box[:2] + box[2:]) / 2
    shift = np.array(size) / 2 - middle * scale
    seen = cv2.warpAffine(picture, np.float64([[scale, 0, shift[0]], [0, scale, shift[1]]]), size)
    columns, rows = _run(network, (seen.astype(np.float32) - MEAN) / DEVIATION)
    spots = np.stack([columns.argmax(axis=1), rows.argmax(axis=1)], axis=1)
    heights = np.minimum(columns.max(axis=1), rows.max(axis=1))
    return np.column_stack([(spots / 2 - shift) / scale, heights.clip(0, 1)])  # each bin is half a pixel


for _name, _see, _network, _second in (
    ("dw_openpose_full", whole_bodies, "YOLOX and DWPose", DWPOSE),
    ("animal_openpose", animals, "YOLOX and RTMPose, AP-10K", AP10K),
):
    register(poser(_see, name=_name, label=_name, network=_network, files=(YOLOX, _second)))
