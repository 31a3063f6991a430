"""Poses from JSON, and their pictures; the reference drawing is huggingface/controlnet_aux's."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.color
from hypothesis import given, settings
from hypothesis import strategies as st

from controlstack import pose
from controlstack.errors import ControlError

SHARE = st.floats(0, 1)
POINT = st.tuples(SHARE, SHARE)
BODY = st.lists(st.none() | POINT, min_size=18, max_size=18)
HAND = st.none() | st.lists(POINT, min_size=21, max_size=21)
FACE = st.none() | st.lists(POINT, min_size=70, max_size=70)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """controlnet_aux's `open_pose/util.py`, without its package, which would import torchvision and more."""
    spec = find_spec("controlnet_aux")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("controlnet_aux is not installed")
    package = ModuleType("open_pose_files")
    package.__path__ = [str(Path(spec.submodule_search_locations[0], "open_pose"))]
    sys.modules[package.__name__] = package
    return importlib.import_module("open_pose_files.util")


@pytest.fixture(scope="module", autouse=True)
def _matplotlib():
    """The reference takes one function from matplotlib, which is scikit-image's too."""
    missing = find_spec("matplotlib") is None
    if missing:
        sys.modules["matplotlib"] = SimpleNamespace(
            colors=SimpleNamespace(hsv_to_rgb=lambda hsv: skimage.color.hsv2rgb(np.array(hsv, float)))
        )
    yield
    if missing:
        del sys.modules["matplotlib"]


def _flat(points: Any) -> list[float] | None:
    return points and [n for point in points for n in ((*point, 1.0) if point else (0.0, 0.0, 0.0))]


def _pose(width: int, height: int, **figures: Any) -> dict[str, Any]:
    return {"people": [], "canvas_width": width, "canvas_height": height} | figures


def _person(body: Any = None, **parts: Any) -> dict[str, Any]:
    return {"pose_keypoints_2d": body} | parts


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 200), st.integers(16, 200), st.lists(st.tuples(BODY, HAND, HAND, FACE), max_size=3))
def test_people_look_like_the_references(reference: ModuleType, width: int, height: int, people: Any):
    """Equal pixels; the order is body, left hand, right hand, face, person by person."""
    expected = np.zeros((height, width, 3), np.uint8)
    point = importlib.import_module("open_pose_files.body").Keypoint
    for body, left, right, face in people:
        reference.draw_bodypose(expected, [p and point(*p) for p in body])
        for hand in (left, right):
            reference.draw_handpose(expected, hand and [point(*p) for p in hand])
        reference.draw_facepose(expected, face and [point(*p) for p in face])
    sent = [
        _person(
            _flat(body),
            hand_left_keypoints_2d=_flat(left),
            hand_right_keypoints_2d=_flat(right),
            face_keypoints_2d=_flat(face),
        )
        for body, left, right, face in people
    ]
    sent = json.loads(json.dumps(_pose(width, height, people=sent)))
    assert np.array_equal(pose.draw(pose.parse(sent)), expected)


def _body(**points: tuple[float, float]) -> list[float]:
    """A body of these points, named after their places in COCO's order: p0 is the nose, p1 the neck."""
    return _flat([points.get(f"p{i}") for i in range(18)]) or []


def test_a_limb_is_darker_than_its_joints():
    """Neck and right shoulder, the first limb: red, 0.6 as bright; the second point is (255, 85, 0)."""
    drawn = pose.draw(pose.parse(_pose(100, 50, people=[_person(_body(p1=(20, 25), p2=(80, 25)))])))
    assert drawn.shape == (50, 100, 3)
    assert drawn[25, 50].tolist() == [153, 0, 0]
    assert np.flatnonzero(drawn[:, 50].any(axis=1)).tolist() == list(range(21, 30))  # 4 px to each side
    assert drawn[25, 20].tolist() == [255, 85, 0]
    assert drawn[25, 80].tolist() == [255, 170, 0]


@pytest.mark.parametrize("confidence", [0.05, 0.5, 1.0])
def test_any_confidence_shows_and_none_hides(confidence: float):
    shown = _body(p0=(20, 25))
    shown[2] = confidence
    hidden = [*shown[:2], 0, *shown[3:]]
    assert pose.draw(pose.parse(_pose(50, 50, people=[_person(shown)])))[25, 20].tolist() == [255, 0, 0]
    assert not pose.draw(pose.parse(_pose(50, 50, people=[_person(hidden)]))).any()


def test_shares_of_the_canvas_and_pixels_mean_the_same():
    """Also where a point lies past the edge, as editors allow."""
    pixels = _body(p1=(40, 30), p2=(210, 60), p3=(-10, 90))
    shares = list(np.array(pixels).reshape(-1, 3) / (200, 100, 1))
    one, other = (
        pose.draw(pose.parse(_pose(200, 100, people=[_person(np.ravel(body).tolist())])))
        for body in (pixels, shares)
    )
    assert one.any()
    assert np.array_equal(one, other)


def test_people_as_shares_and_animals_in_pixels_share_a_canvas():
    """What sd-webui-controlnet's detectors write."""
    animal = [[20.0 * i, 50.0, 1.0] for i in range(17)]
    drawn = pose.draw(pose.parse(_pose(400, 100, people=[_person(_body(p0=(0.5, 0.9)))], animals=[animal])))
    assert drawn[90, 200].tolist() == [255, 0, 0]
    assert drawn[50, 70].tolist() == [255, 0, 255]  # from the neck to the root of the tail


@pytest.mark.parametrize("flat", [False, True])
def test_an_animals_limbs(flat: bool):
    """AP-10K: 2 nose, 3 neck, 4 root of tail, 14 right hip. Lines of 5 px, no dots."""
    points = np.zeros((17, 3))
    points[[2, 3, 4, 14]] = [(20, 20, 0.9), (20, 60, 0.9), (90, 60, 0.9), (90, 95, 0.9)]
    expected = np.zeros((120, 120, 3), np.uint8)
    for start, end, colour in (
        ((20, 20), (20, 60), (100, 50, 255)),
        ((20, 60), (90, 60), (255, 0, 255)),
        ((90, 60), (90, 95), (255, 0, 0)),
    ):
        cv2.line(expected, start, end, colour, 5)
    animal = (points.ravel() if flat else points).tolist()
    assert np.array_equal(pose.draw(pose.parse(_pose(120, 120, animals=[animal]))), expected)


def test_a_part_that_nobody_saw_is_null_empty_or_left_out():
    for nothing in (None, []):
        person = _person(nothing, hand_left_keypoints_2d=nothing, face_keypoints_2d=nothing)
        assert not pose.draw(pose.parse(_pose(8, 8, people=[person]))).any()
    assert not pose.draw(pose.parse({"animals": [], "canvas_width": 8, "canvas_height": "8"})).any()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (None, "has to be an object"),
        ([], "has to be an object"),
        ({"canvas_width": 8, "canvas_height": 8}, "neither people nor animals"),
        ({"people": []}, "canvas_width has to be a whole number from 1 to 8192"),
        (_pose(8, 0), "canvas_height has to be"),
        (_pose(8193, 8), "canvas_width has to be"),
        (_pose(8, 10**400), "canvas_height has to be"),
        (_pose(8, float("inf")), "canvas_height has to be"),
        (_pose(8, float("nan")), "canvas_height has to be"),
        (_pose(8, "wide"), "canvas_height has to be"),
        (_pose(8, [8]), "canvas_height has to be"),
        (_pose(8, 8, people={}, animals="cat"), "animals has to be a list"),
        (_pose(8, 8, people=3), "people has to be a list"),
        (_pose(8, 8, people=[None]), r"people\[0\] has no pose_keypoints_2d"),
        (_pose(8, 8, people=[{"hand_left_keypoints_2d": None}]), r"people\[0\] has no pose_keypoints_2d"),
        (_pose(8, 8, people=[_person(None)] * 101), "101 people"),
        (_pose(8, 8, people=[_person([1.0] * 53)]), "pose_keypoints_2d cannot be read. It takes 18 points"),
        (_pose(8, 8, people=[_person([1.0] * 75)]), "It takes 18 points"),
        (_pose(8, 8, people=[_person([None] * 54)]), "cannot be read"),
        (_pose(8, 8, people=[_person(["a"] * 54)]), "cannot be read"),
        (_pose(8, 8, people=[_person([float("nan")] * 54)]), "cannot be read"),
        (_pose(8, 8, people=[_person([10**400] * 54)]), "cannot be read"),
        (_pose(8, 8, people=[_person([[1, 2]] * 27)]), "cannot be read"),
        (_pose(8, 8, people=[_person({"0": 1})]), "cannot be read"),
        (_pose(8, 8, people=[_person(None, face_keypoints_2d=[1.0] * 3000)]), "1 to 500 points"),
        (_pose(8, 8, people=[_person(None, hand_right_keypoints_2d=[1.0] * 3)]), "hand_right_keypoints_2d"),
        (_pose(8, 8, animals=[[[1, 2, 1]] * 18]), r"animals\[0\] cannot be read. It takes 17 points"),
        (_pose(8, 8, people=[_person([1e9, 1, 1] * 18)]), "far outside the canvas"),
    ],
)
def test_what_is_no_pose_is_refused_in_a_sentence(wrong: object, what: str):
    with pytest.raises(ControlError, match=what):
        pose.parse(wrong)


def test_points_as_far_away_as_allowed_can_be_drawn():
    corners = [(32768, 32768, 1), (-32768, -32768, 1), (32768, -32768, 1), (-32768, 32768, 1)]
    figures = np.array([corners[i % 4] for i in range(21)], float)
    person = _person(
        figures[:18].ravel().tolist(),
        hand_left_keypoints_2d=figures.ravel().tolist(),
        face_keypoints_2d=figures.ravel().tolist(),
    )
    sent = _pose(64, 64, people=[person], animals=[figures[:17].tolist()])
    assert pose.draw(pose.parse(sent)).any()


PLACE = st.floats(-150, 290)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(60, 190), st.integers(60, 190), st.lists(st.tuples(PLACE, PLACE), min_size=77, max_size=77)
)
def test_what_is_written_is_read_again(width: int, height: int, places: list[tuple[float, float]]):
    """People and animals to within rounding, and once more the same; a part that nobody saw is null."""
    points = np.array([(*place, index % 5 > 0) for index, place in enumerate(places)])
    hand, animal, nothing = points[18:39], points[60:77], np.empty((0, 3))
    face = points[39:60] * (1, 1, 0)
    one = pose.Pose(width, height, (pose.Person(points[:18], hand, nothing, face),), (animal,))
    sent = json.loads(json.dumps(pose.write(one)))
    read = pose.parse(sent)
    assert (read.width, read.height) == (width, height)
    assert sent["people"][0]["hand_right_keypoints_2d"] is None
    assert sent["people"][0]["face_keypoints_2d"] is None
    for before, after in ((points[:18], read.people[0].body), (hand, read.people[0].left_hand)):
        share = before[:, :2] / (width, height)
        there = (before[:, 2] > 0) & (share >= -1).all(axis=1) & (share <= 2).all(axis=1)
        assert np.array_equal(after[:, 2], there)
        assert np.allclose(after[there], before[there], atol=1e-9)
    assert np.allclose(read.animals[0][read.animals[0][:, 2] > 0, :2], animal[read.animals[0][:, 2] > 0, :2])


def test_a_hundred_people_are_written():
    body = np.ones((18, 3))
    nothing = np.empty((0, 3))
    crowd = pose.Pose(64, 64, 120 * (pose.Person(body, nothing, nothing, nothing),))
    assert len(pose.parse(pose.write(crowd)).people) == pose.MAX_FIGURES == 100
