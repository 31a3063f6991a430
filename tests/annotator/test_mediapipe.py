"""MediaPipe's person, face and hands, against the package's own Pose and controlnet_aux."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from controlstack import pose
from controlstack.geometry import padded
from controlstack.image import Array
from controlstack.preprocess import Cache, find

solutions = pytest.importorskip(
    "mediapipe.python.solutions", reason="mediapipe 0.10 is not installed", exc_type=ImportError
)

# MediaPipe's names of OpenPose's points (COCO order).
NAMES = """
NOSE - RIGHT_SHOULDER RIGHT_ELBOW RIGHT_WRIST LEFT_SHOULDER LEFT_ELBOW LEFT_WRIST RIGHT_HIP RIGHT_KNEE
RIGHT_ANKLE LEFT_HIP LEFT_KNEE LEFT_ANKLE RIGHT_EYE LEFT_EYE RIGHT_EAR LEFT_EAR
"""


def _run(name: str, picture: Array, resolution: int = 512, **numbers: float) -> Array:
    preprocessor = find(name)
    return preprocessor.run(picture, preprocessor.ask(resolution, **numbers))


def test_the_astronauts_skeleton(astronaut: Array):
    """Each point is what Pose calls by its name; the neck lies between the shoulders."""
    with solutions.pose.Pose(static_image_mode=True) as network:
        landmarks = network.process(astronaut).pose_landmarks.landmark
    preprocessor = find("openpose_mediapipe")
    found = Cache().pose(preprocessor, astronaut, preprocessor.ask(512))
    assert (found.width, found.height, len(found.people)) == (512, 512, 1)
    body = found.people[0].body
    shown = set()
    for index, name in enumerate(NAMES.split()):
        if name != "-":
            landmark = landmarks[solutions.pose.PoseLandmark[name]]
            assert np.allclose(body[index, :2], (512 * landmark.x, 512 * landmark.y), atol=0.5), name
            assert bool(body[index, 2]) == (landmark.visibility > 0.5), name
            shown |= {name} if body[index, 2] else set()
    assert {"NOSE", "LEFT_EYE", "RIGHT_EYE", "LEFT_SHOULDER", "RIGHT_SHOULDER"} <= shown
    assert not {"LEFT_KNEE", "RIGHT_ANKLE"} & shown  # below the picture
    assert np.allclose(body[1], (body[2] + body[5]) / 2)


def test_the_astronaut_where_she_is(astronaut: Array):
    """Read off the photograph: the nose at 225, 125, her right shoulder left of the left one, both lower."""
    body = np.array(_written(astronaut)["people"][0]["pose_keypoints_2d"]).reshape(18, 3)
    (nose_x, nose_y), right, left = body[0, :2] * 512, body[2] * 512, body[5] * 512
    assert abs(nose_x - 225) < 12
    assert abs(nose_y - 125) < 12
    assert right[0] < nose_x < left[0]
    assert min(right[1], left[1]) > nose_y + 60


def _written(picture: Array) -> dict[str, Any]:
    preprocessor = find("openpose_mediapipe")
    return pose.write(Cache().pose(preprocessor, picture, preprocessor.ask(512)))


def test_the_skeleton_is_drawn_in_the_pictures_size(astronaut: Array):
    wide = np.ascontiguousarray(astronaut[:300])
    map_ = _run("openpose_mediapipe", wide, 192)
    assert map_.shape == (192, round(512 * 192 / 300), 3)
    head = map_[20:120, 100:200]
    assert (head == (255, 0, 0)).all(axis=2).any()  # the nose


def test_nobody_is_a_black_map():
    assert not _run("openpose_mediapipe", np.full((64, 64, 3), 200, np.uint8), 64).any()


def test_faces_are_the_references(controlnet_aux: Callable[[str], ModuleType], astronaut: Array):
    """Two astronauts in a picture whose sides are no multiples of 64."""
    annotate = controlnet_aux("mediapipe_face.mediapipe_face_common").generate_annotation
    two = np.hstack([astronaut[:300, 60:400], astronaut[:300, 70:390]])
    picture, crop = padded(two, 512)
    maps = []
    for faces in (1, 2):
        map_ = _run("mediapipe_face", two, a=faces)
        assert np.array_equal(map_, annotate(picture, faces, 0.5)[crop])
        maps.append(map_.any(axis=2).sum())
    assert 0 < maps[0] < maps[1]


def test_the_astronauts_face_where_it_is(astronaut: Array):
    """Read off the photograph: eyes at 200, 101 and 249, 102, the mouth at 222, 146."""
    map_ = _run("mediapipe_face", astronaut)
    for colour, x, y in (((250, 200, 10), 202, 101), ((10, 200, 250), 249, 102), ((10, 180, 10), 222, 146)):
        rows, columns = np.nonzero((map_ == colour).all(axis=2))
        assert abs(columns.mean() - x) < 12, colour
        assert abs(rows.mean() - y) < 8, colour


def test_a_face_below_64_px_is_left_out(astronaut: Array):
    """Hers is about 95 px wide in the whole photograph."""
    assert _run("mediapipe_face", astronaut, 400).any()
    assert not _run("mediapipe_face", astronaut, 320).any()
    assert not _run("mediapipe_face", cv2.GaussianBlur(astronaut, (0, 0), 40)).any()


BONES = [
    *[((112, 225), (82, 185), 16, 15), ((82, 185), (66, 150), 15, 12)],
    *[((128, 160), (116, 105), 15, 13), ((116, 105), (110, 58), 13, 10)],
    *[((156, 150), (154, 90), 15, 13), ((154, 90), (153, 40), 13, 10)],
    *[((184, 155), (192, 98), 15, 13), ((192, 98), (197, 55), 13, 10)],
    *[((208, 170), (227, 128), 15, 13), ((227, 128), (240, 92), 13, 10)],
    *[((x * 0.65 + 57.75, 262), (x * 1.3 - 49.5, 165), 26, 24) for x in (135, 150, 165, 180, 195)],
    *[((165, 340), (165, 262), 34, 32), ((112, 225), (150, 262), 18, 24)],
]
"""Of a right hand from behind, 320 px high: from, to, and half as thick as it is there."""


def _hand() -> Array:
    """A picture of a hand: round bones under one skin, in light from the upper left."""
    x, y = np.meshgrid(*[np.arange(320, dtype=np.float32)] * 2)
    height = np.zeros_like(x)
    for start, end, thick, thin in BONES:
        (left, top), (right, down) = start, np.subtract(end, start)
        along = (((x - left) * right + (y - top) * down) / (right**2 + down**2)).clip(0, 1)
        aside = (x - left - along * right) ** 2 + (y - top - along * down) ** 2
        height = np.maximum(height, np.sqrt(((thick + (thin - thick) * along) ** 2 - aside).clip(0)))
    skin = cv2.GaussianBlur(height, (0, 0), 2)
    down, right = np.gradient(skin)
    light = (0.4 * right + 0.6 * down + 0.7) / np.sqrt(1.01 * (right**2 + down**2 + 1))
    lit = (light.clip(0) * 0.65 + 0.4)[..., None] * (224, 172, 145)
    picture = np.where((skin > 1)[..., None], lit, (190, 200, 205))
    return cv2.GaussianBlur(picture.clip(0, 255).astype(np.uint8), (0, 0), 1)


@pytest.mark.parametrize("is_left", [False, True])
def test_a_drawn_hand_is_found_and_told_from_the_other_one(is_left: bool):
    room = import_module(find("depth_hand_refiner").run.__module__)
    picture = np.hstack([np.full_like(_hand(), (190, 200, 205)), _hand()])
    picture = np.ascontiguousarray(picture[:, ::-1]) if is_left else picture
    (hand,) = room._hands(picture)
    assert hand.is_left == is_left
    middle = 320 - 160 if is_left else 320 + 160
    assert abs(hand.left + hand.side / 2 - middle) < 20
    assert abs(hand.top + hand.side / 2 - 160) < 20
    assert 300 < hand.side < 420
    assert not list(room._hands(np.full((64, 64, 3), 200, np.uint8)))
