"""Faces as the identity models know them: found by SCRFD, upright by their five points, known by ArcFace.

Sources: Guo and others, Sample and Computation Redistribution for Efficient Face Detection, arXiv 2105.04714;
Deng and others, ArcFace, arXiv 1801.07698. The networks are InsightFace's packs, whose licence is for
non-commercial research; the numbers below are those of its package, with which they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controlstack import onnx
from controlstack.downloads import File
from controlstack.errors import ControlError
from controlstack.image import Array
from controlstack.networks import Networks

Numbers: TypeAlias = NDArray[np.float32]
SIDES = (640, 128)
"""px of the square in which faces are looked for; a face that fills the picture is found in the small one."""
STRIDES, ANCHORS = (8, 16, 32), 2
"""px from cell to cell of the detector's three levels, and candidates in each cell."""
SURE, SAME = 0.5, 0.4
"""How sure the detector has to be, and how much two boxes of one face overlap."""
UPRIGHT = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where eyes, nose and corners of the mouth lie in a face of 112 px."""
FACE_SIDE = 112


@dataclass(frozen=True)
class Pack:
    """The two of a pack's networks that are needed."""

    detector: File
    recogniser: File

    @property
    def files(self) -> tuple[File, File]:
        """Both."""
        return self.detector, self.recogniser


def _pack(name: str, repository: str, folder: str, detector: str, recogniser: str) -> Pack:
    file = partial(
        File,
        repository,
        folder=f"insightface/models/{name}",
        licence="InsightFace's, non-commercial",
        placed_by_user=True,
    )
    return Pack(file(folder + detector), file(folder + recogniser))


BUFFALO = _pack("buffalo_l", "public-data/insightface", "models/buffalo_l/", "det_10g.onnx", "w600k_r50.onnx")
"""With which the FaceID models were trained."""
ANTELOPE = _pack("antelopev2", "DIAMONIK7777/antelopev2", "", "scrfd_10g_bnkps.onnx", "glintr100.onnx")
"""With which InstantID and PuLID were trained."""


@dataclass(frozen=True)
class Face:
    """A face in a picture.

    box: left, top, right, bottom, px
    points: "5 2", px: the eyes, the nose, the corners of the mouth, the left of the picture first
    """

    box: Numbers
    points: Numbers

    @property
    def area(self) -> float:
        """px²"""
        left, top, right, bottom = self.box
        return float((right - left) * (bottom - top))


def largest(image: Array, pack: Pack, networks: Networks) -> Face:
    """The largest face in a picture. Raises ControlError if there is none."""
    network = networks.open(pack.detector, onnx.read)
    for side in SIDES:
        if faces := _faces(image, side, network):
            return max(faces, key=lambda face: face.area)
    raise ControlError(
        "No face is found in the picture",
        "This preprocessor reads faces",
        "Choose a picture of a person, with the whole face in it",
    )


def known(image: Array, face: Face, pack: Pack, networks: Networks) -> Tensor:
    """What the recogniser knows of a face, "1 512", not normalised."""
    seen = _pixels(upright(image, face, FACE_SIDE), 127.5)
    (embedding,) = networks.open(pack.recogniser, onnx.read)(seen)
    return cast(Tensor, embedding.reshape(1, -1).float())


def upright(image: Array, face: Face, side: int) -> Array:
    """The face alone, turned and scaled to "side side 3"."""
    turned = cv2.warpAffine(image, similarity(face.points, UPRIGHT * side / FACE_SIDE), (side, side))
    return np.asarray(turned, np.uint8)


def similarity(points: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The turn, scale and shift "2 3" that brings points "N 2" nearest to the targets, by least squares.

    As complex numbers they are one factor and one summand.
    """
    source, target = (np.asarray(one, np.float64) @ (1, 1j) for one in (points, targets))
    centred = source - source.mean()
    factor = (centred.conj() @ (target - target.mean())) / (centred.conj() @ centred).real
    shift = target.mean() - factor * source.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def _faces(image: Array, side: int, network: Any) -> list[Face]:
    """All faces, looked for in a square of `side` px in whose corner the picture lies."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(int(width * scale), 1), max(int(height * scale), 1)
    square = np.zeros((side, side, 3), np.uint8)
    square[: size[1], : size[0]] = cv2.resize(image, size)
    outputs = [output.numpy() for output in network(_pixels(square, 128.0))]
    scale = size[1] / height
    sure, boxes, points = candidates(outputs, side)
    corners = [(left, top, right - left, bottom - top) for left, top, right, bottom in boxes.tolist()]
    kept = cv2.dnn.NMSBoxes(corners, sure.tolist(), SURE, SAME)
    return [Face(boxes[i] / scale, points[i] / scale) for i in np.array(kept, int).flatten()]


def candidates(outputs: Sequence[Numbers], side: int) -> tuple[Numbers, Numbers, Numbers]:
    """How sure the detector is of each candidate "N", its box "N 4" and points "N 5 2", px of the square.

    outputs: for each level how sure "… 1", the distances of the box's sides from the cell "… 4" and of the
        points "… 10", in strides; in any order
    """
    found: dict[int, list[Numbers]] = {1: [], 4: [], 10: []}
    for stride in STRIDES:
        cells = side // stride
        y, x = np.mgrid[:cells, :cells].reshape(2, -1).repeat(ANCHORS, axis=1) * stride
        centres = np.stack([x, y], axis=1).astype(np.float32)
        level = {one.shape[-1]: one.reshape(-1, one.shape[-1]) for one in outputs if _rows(one) == len(x)}
        if level.keys() != found.keys():
            raise ControlError(
                "The network that finds faces cannot be used",
                f"It puts out {[tuple(one.shape) for one in outputs]}, not three levels of faces",
                "Take the file from InsightFace's pack of this name",
            )
        found[1].append(level[1][:, 0])
        low, high = np.split(level[4] * stride, 2, axis=1)
        found[4].append(np.concatenate([centres - low, centres + high], axis=1))
        found[10].append((level[10] * stride).reshape(-1, 5, 2) + centres[:, None])
    sure, boxes, points = (np.concatenate(levels) for levels in found.values())
    return sure, boxes, points


def _rows(output: Numbers) -> int:
    return int(output.size // output.shape[-1])


def _pixels(picture: Array, spread: float) -> Tensor:
    """A picture "1 3 H W", RGB, 0 in the middle."""
    return (torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None] - 127.5) / spread
