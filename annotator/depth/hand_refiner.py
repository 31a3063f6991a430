"""Depth of hands as they should be: MediaPipe finds them, a mesh is fitted to each, and its depth is drawn.

Sources: W. Lu and others, HandRefiner: Refining Malformed Hands in Generated Images by Diffusion-based
Conditional Inpainting, arXiv 2311.17957, with whose numbers its ControlNet was trained; for the mesh,
controlstack.hand_mesh.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from controlstack import hand_mesh
from controlstack.downloads import File
from controlstack.hand_mesh import HandMesh, Mesh
from controlstack.image import Array, hwc3
from controlstack.networks import Networks, imagenet
from controlstack.packages import bring
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register

WEIGHTS = File(
    repository="hr16/ControlNet-HandRefiner-pruned",
    path="graphormer_hand_state_dict.bin",
    folder="hand_refiner/hr16/ControlNet-HandRefiner-pruned",
    licence="MIT (microsoft/MeshGraphormer)",
)
PACKAGE = "mesh_graphormer"
"""What the incumbent installs for this: MANO's mesh is among its data."""
SURE, MOST = 0.6, 2
"""How sure a hand has to be, and how many are drawn."""
AROUND = 1.6
"""What the network sees is so much larger than a hand's landmarks."""
FOCAL = 1000 / hand_mesh.SIDE
"""Of the camera that sees a hand, in sides of its picture."""
FARTHEST = 0.2
"""Grey of the farthest point of a hand, 0..1; the nearest is 1."""


@dataclass(frozen=True)
class Hand:
    """A hand in a picture: the square around it, px, which may reach past the picture's edge."""

    left: int
    top: int
    side: int
    is_left: bool


@at_resolution
def hand_refiner(picture: Array, ask: Ask) -> Array:
    """The nearer, the brighter; black where no hand is."""
    return drawn(picture, list(_hands(picture)), ask.networks)


def drawn(picture: Array, hands: list[Hand], networks: Networks) -> Array:
    """The depth of these hands "h w 3", a later one over those before it."""
    network = networks.get(WEIGHTS, lambda state: hand_mesh.network(state, Mesh.read(_data())))
    canvas = np.zeros(picture.shape[:2], np.uint8)
    for hand in hands:
        depth = _depth(_square(picture, hand), hand, cast(HandMesh, network))
        rows, columns = np.nonzero(depth)
        y, x = rows + hand.top, columns + hand.left
        there = (y >= 0) & (y < canvas.shape[0]) & (x >= 0) & (x < canvas.shape[1])
        canvas[y[there], x[there]] = depth[rows, columns][there]
    return hwc3(canvas)


def _data() -> Path:
    spec = find_spec(PACKAGE)
    folders = (spec.submodule_search_locations if spec else None) or [""]
    return Path(folders[0]) / "modeling" / "data"


def _hands(picture: Array) -> Iterator[Hand]:
    """The hands in a picture, the farthest first."""
    solutions = bring("mediapipe.python.solutions")
    with solutions.hands.Hands(
        static_image_mode=True, max_num_hands=MOST, min_detection_confidence=SURE
    ) as network:
        found = network.process(picture)
    hands = zip(found.multi_hand_landmarks or (), found.multi_handedness or (), strict=True)
    for landmarks, sides in sorted(hands, key=lambda hand: -hand[0].landmark[9].z):
        # it takes every picture for a mirrored one
        is_left = sides.classification[0].label == "Right"
        if hand := _around(landmarks.landmark, picture, is_left):
            yield hand


def _around(landmarks: Any, picture: Array, is_left: bool) -> Hand | None:
    """The square around landmarks, which are shares of the picture; None if there is nothing in it."""
    height, width = picture.shape[:2]
    spots = np.array([(point.x * width, point.y * height) for point in landmarks]).astype(int)
    least, most = spots.min(axis=0), spots.max(axis=0)
    half = int((most - least).max() * AROUND / 2)
    left, top = ((least + most) // 2 - half + 1).tolist()
    return Hand(left, top, 2 * half, is_left) if half else None


def _square(picture: Array, hand: Hand) -> Array:
    """What a hand's square shows, black outside the picture, and the hand a right one."""
    shift = np.float32([[1, 0, -hand.left], [0, 1, -hand.top]])
    square = cv2.warpAffine(picture, shift, (hand.side, hand.side), flags=cv2.INTER_NEAREST)
    return np.asarray(cv2.flip(square, 1) if hand.is_left else square, np.uint8)


def _depth(square: Array, hand: Hand, network: HandMesh) -> Array:
    """The depth "side side" of the hand in its square, 0 where there is none."""
    method = cv2.INTER_CUBIC if hand.side < hand_mesh.SIDE else cv2.INTER_AREA
    small = cv2.resize(square, (hand_mesh.SIDE, hand_mesh.SIDE), interpolation=method)
    camera, vertices = (found.double().cpu().numpy() for found in network(imagenet(small, network)))
    size, right, down = camera
    place = -right, -down, -2 * FOCAL / (size + 1e-9)
    distances = _distances((vertices - place)[network.faces], hand.side)
    seen = np.isfinite(distances)
    if not seen.any():
        return np.zeros(square.shape[:2], np.uint8)
    distances -= distances[seen].min()
    depth = 1 - (1 - FARTHEST) * distances / max(distances[seen].max(), np.finfo(float).tiny)
    grey: Array = np.where(seen, 255 * depth, 0).astype(np.uint8)
    return cv2.flip(grey, 1) if hand.is_left else grey


def _distances(faces: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """How far along the camera's axis the nearest surface lies in each pixel, "side side".

    Infinite where there is none, and where the mesh, which is open at the wrist, shows its inside.
    faces: "F 3 3", the corners of triangles as the camera sees them, against the clock from outside
    """
    nearest = np.full((side, side), np.inf)
    outside = np.zeros((side, side), bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        spots = FOCAL * side * faces[..., :2] / faces[..., 2:] + (side - 1) / 2
    shown = np.linalg.det(faces) <= 0
    for corners, depths, is_outside in zip(spots, faces[..., 2], shown, strict=True):
        if depths.min() <= 0:
            continue
        start = np.ceil(corners.min(axis=0)).clip(0, side).astype(int)
        stop = np.floor(corners.max(axis=0) + 1).clip(0, side).astype(int)
        a, (ab, ac) = corners[0], corners[1:] - corners[0]
        twice_area = ab[0] * ac[1] - ab[1] * ac[0]
        if twice_area == 0 or (start >= stop).any():
            continue
        x, y = np.arange(start[0], stop[0]) - a[0], (np.arange(start[1], stop[1]) - a[1])[:, None]
        shares = (x * ac[1] - y * ac[0]) / twice_area, (y * ab[0] - x * ab[1]) / twice_area
        rest = 1 - shares[0] - shares[1]
        # 1 / distance is what is linear in the picture
        distance = 1 / (rest / depths[0] + shares[0] / depths[1] + shares[1] / depths[2])
        window = np.s_[start[1] : stop[1], start[0] : stop[0]]
        closer = (np.minimum(rest, np.minimum(*shares)) >= 0) & (distance < nearest[window])
        nearest[window][closer] = distance[closer]
        outside[window][closer] = is_outside
    nearest[~outside] = np.inf
    return nearest


register(
    Preprocessor(
        name="depth_hand_refiner",
        run=hand_refiner,
        label="depth_hand_refiner",
        control_types=("Depth",),
        network="MeshGraphormer, MediaPipe Hands, and MANO's mesh (non-commercial), in a package you install",
        files=(WEIGHTS,),
        packages=(PACKAGE, "mediapipe", "timm", "scipy"),
    )
)
