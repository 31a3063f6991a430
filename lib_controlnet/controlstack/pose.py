"""Poses: the JSON that OpenPose and its editors write, and the pictures that control networks read.

A person has 18 body points (OpenPose's COCO order), 21 points a hand and any number on the face; an animal
has the 17 points of AP-10K. Points come as x, y, confidence; those with confidence 0 are missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from itertools import starmap
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from controlstack.errors import ControlError
from controlstack.image import Array

Colour: TypeAlias = tuple[int, int, int]
Spot: TypeAlias = tuple[int, int]
Points: TypeAlias = NDArray[np.float64]
""" "N 3": x px, y px, confidence; of something that is not there, "0 3"."""

MAX_SIDE = 8192
"""px"""
MAX_FIGURES = 100
"""People, and again animals, in one pose."""

_BODY, _HAND, _ANIMAL, _MAX_FACE = 18, 21, 17, 500
_NORMALISED = 2.0
"""Coordinates up to here are shares of the canvas: editors let points be dragged past its edge at 1."""
_FAR = 4 * MAX_SIDE
"""px from the canvas' corner"""

# Limbs as pairs of points from 0; a limb and the point at the same place in the list share a colour.
# Source: CMU OpenPose, COCO model; lllyasviel/ControlNet draws limbs 0.6 as bright as points.
_LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
_COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
    *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
    *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)

# Where OpenPose's points stand in COCO's order, which has no neck; that is added at its end.
_FROM_COCO = [0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
_SHOULDERS = [5, 6]

# Five fingers of four bones, each from the wrist (point 0) outwards.
_BONES = tuple((0 if i % 4 == 0 else i, i + 1) for i in range(_HAND - 1))

# Source: AP-10K's order of points, and the limbs and colours of ControlNet's animal models.
_ANIMAL_LIMBS = {
    (0, 1): (255, 255, 255),
    (1, 2): (100, 255, 100),
    (0, 2): (150, 255, 255),
    (2, 3): (100, 50, 255),
    (3, 8): (50, 150, 200),
    (8, 9): (0, 255, 255),
    (9, 10): (0, 150, 0),
    (3, 5): (0, 0, 255),
    (5, 6): (0, 0, 150),
    (6, 7): (255, 50, 255),
    (3, 4): (255, 0, 255),
    (4, 14): (255, 0, 0),
    (14, 15): (150, 0, 0),
    (15, 16): (255, 255, 100),
    (4, 11): (0, 150, 0),
    (11, 12): (255, 255, 0),
    (12, 13): (150, 150, 150),
}


@dataclass(frozen=True, eq=False)
class Person:
    """One person's points."""

    body: Points
    left_hand: Points
    right_hand: Points
    face: Points


@dataclass(frozen=True, eq=False)
class Pose:
    """Everybody on one canvas, whose sides are px."""

    width: int
    height: int
    people: tuple[Person, ...] = ()
    animals: tuple[Points, ...] = ()


def body_of_coco(points: Points) -> Points:
    """The 18 body points of COCO's 17, the neck between the shoulders, and there if they both are."""
    left, right = points[_SHOULDERS]
    neck = (*(left + right)[:2] / 2, min(left[2], right[2]))
    return np.vstack([points, neck])[_FROM_COCO]


def parse(value: object) -> Pose:
    """A pose from ``{"people", "animals", "canvas_width", "canvas_height"}``.

    A person has ``pose_keypoints_2d`` and may have ``hand_left_keypoints_2d``, ``hand_right_keypoints_2d``
    and ``face_keypoints_2d``; null or an empty list is a part that nobody saw. Points are flat numbers or
    triplets, in px or as shares of the canvas; people and animals may differ in that. Raises ControlError for
    anything else, for more than `MAX_FIGURES`, and for a canvas larger than `MAX_SIDE`.
    """
    if not isinstance(value, Mapping):
        raise ControlError("A pose has to be an object", fix="Send people, canvas_width and canvas_height")
    if "people" not in value and "animals" not in value:
        raise ControlError(
            "The pose has neither people nor animals", fix="Send a list of people, even an empty one"
        )
    width, height = (_side(name, value.get(name)) for name in ("canvas_width", "canvas_height"))
    people = [_parts(index, person) for index, person in enumerate(_figures(value, "people"))]
    animals = [
        _points(f"animals[{index}]", animal, _ANIMAL, _ANIMAL)
        for index, animal in enumerate(_figures(value, "animals"))
    ]
    _to_pixels([part for parts in people for part in parts], width, height)
    _to_pixels(animals, width, height)
    return Pose(width, height, tuple(starmap(Person, people)), tuple(animals))


def write(pose: Pose) -> dict[str, object]:
    """The pose as `parse` reads it: people as shares of the canvas, animals in px, confidence 1 or 0.

    What lies more than a canvas beside it is missing, and so is who comes after `MAX_FIGURES`.
    """
    size = np.array([pose.width, pose.height], np.float64)
    return {
        "people": [
            {
                "pose_keypoints_2d": _flat(person.body, size, size),
                "face_keypoints_2d": _flat(person.face, size, size),
                "hand_left_keypoints_2d": _flat(person.left_hand, size, size),
                "hand_right_keypoints_2d": _flat(person.right_hand, size, size),
            }
            for person in pose.people[:MAX_FIGURES]
        ],
        "animals": [_flat(animal, size, np.ones(2)) for animal in pose.animals[:MAX_FIGURES]],
        "canvas_height": pose.height,
        "canvas_width": pose.width,
    }


def _flat(points: Points, size: Points, unit: Points) -> list[float] | None:
    there = (points[:, 2] > 0) & (np.abs(points[:, :2] / size - 0.5) <= _NORMALISED - 0.5).all(axis=1)
    if not there.any():
        return None
    triplets = np.insert(points[:, :2] / unit, 2, 1, axis=1)
    flat: list[float] = np.where(there[:, None], triplets, 0).ravel().tolist()
    return flat


def draw(pose: Pose) -> Array:
    """The pose on black, "height width 3"."""
    canvas = np.zeros((pose.height, pose.width, 3), np.uint8)
    for person in pose.people:
        _draw_body(canvas, person.body)
        _draw_hand(canvas, person.left_hand)
        _draw_hand(canvas, person.right_hand)
        _draw_dots(canvas, _spots(person.face).values(), 3, (255, 255, 255))
    for animal in pose.animals:
        _draw_animal(canvas, animal)
    return canvas


def _side(name: str, value: object) -> int:
    try:
        side = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        side = 0
    if not 1 <= side <= MAX_SIDE:
        raise ControlError(f"{name} has to be a whole number from 1 to {MAX_SIDE}", fix="Send the size in px")
    return int(side)


def _figures(pose: Mapping[str, object], name: str) -> Sequence[object]:
    figures = pose.get(name) or []
    if not isinstance(figures, list):
        raise ControlError(f"{name} has to be a list", fix="Send one entry for each")
    if len(figures) > MAX_FIGURES:
        raise ControlError(f"There are {len(figures)} {name}", fix=f"Send at most {MAX_FIGURES}")
    return figures


def _parts(index: int, person: object) -> tuple[Points, Points, Points, Points]:
    """Body, left hand, right hand and face."""
    name = f"people[{index}]"
    if not isinstance(person, Mapping) or "pose_keypoints_2d" not in person:
        raise ControlError(f"{name} has no pose_keypoints_2d", fix="Send the body's points, or null for none")
    return (
        _points(f"{name}.pose_keypoints_2d", person["pose_keypoints_2d"], _BODY, _BODY),
        _points(f"{name}.hand_left_keypoints_2d", person.get("hand_left_keypoints_2d"), _HAND, _HAND),
        _points(f"{name}.hand_right_keypoints_2d", person.get("hand_right_keypoints_2d"), _HAND, _HAND),
        _points(f"{name}.face_keypoints_2d", person.get("face_keypoints_2d"), 1, _MAX_FACE),
    )


def _points(name: str, value: object, least: int, most: int) -> Points:
    if value is None or value == []:
        return np.empty((0, 3))
    count = f"{most}" if least == most else f"{least} to {most}"
    wrong = ControlError(
        f"{name} cannot be read", f"It takes {count} points", "Send x, y, confidence of each as numbers"
    )
    if not isinstance(value, list) or len(value) > 3 * most:
        raise wrong
    try:
        points = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise wrong from error
    if points.ndim == 1 and points.size % 3 == 0:
        points = points.reshape(-1, 3)
    if points.shape[1:] != (3,) or not least <= len(points) <= most or not np.isfinite(points).all():
        raise wrong
    return points


def _to_pixels(figures: Sequence[Points], width: int, height: int) -> None:
    """Scale points in place to px, if all that are there are shares of the canvas."""
    furthest = max((np.abs(p[p[:, 2] > 0, :2]).max(initial=0) for p in figures), default=0)
    if furthest > _FAR:
        raise ControlError("A point lies far outside the canvas", fix="Send points near the canvas")
    if furthest <= _NORMALISED:
        for points in figures:
            points[:, :2] *= (width, height)


def _draw_body(canvas: Array, body: Points) -> None:
    there = {index: point for index, point in enumerate(body[:, :2]) if body[index, 2] > 0}
    for (start, end), colour in zip(_LIMBS, _COLOURS, strict=False):
        if start in there and end in there:
            _draw_limb(canvas, there[start], there[end], colour)
    for index, (x, y) in there.items():
        cv2.circle(canvas, (int(x), int(y)), 4, _COLOURS[index], -1)


def _draw_limb(canvas: Array, start: Points, end: Points, colour: Colour) -> None:
    """An ellipse from point to point, 4 px to each side."""
    (x, y), (dx, dy) = (start + end) / 2, start - end
    half, angle = int(math.hypot(dx, dy) / 2), int(math.degrees(math.atan2(dy, dx)))
    outline = cv2.ellipse2Poly((int(x), int(y)), (half, 4), angle, 0, 360, 1)
    cv2.fillConvexPoly(canvas, outline, [int(channel * 0.6) for channel in colour])


def _draw_hand(canvas: Array, hand: Points) -> None:
    spots = _spots(hand)
    for index, (start, end) in enumerate(_BONES):
        if start in spots and end in spots:
            colour = [255 * channel for channel in hsv_to_rgb(index / len(_BONES), 1, 1)]
            cv2.line(canvas, spots[start], spots[end], colour, 2)
    _draw_dots(canvas, spots.values(), 4, (0, 0, 255))


def _draw_animal(canvas: Array, animal: Points) -> None:
    there = {index: (int(x), int(y)) for index, (x, y, confidence) in enumerate(animal) if confidence > 0}
    for (start, end), colour in _ANIMAL_LIMBS.items():
        if start in there and end in there:
            cv2.line(canvas, there[start], there[end], colour, 5)


def _spots(points: Points) -> dict[int, Spot]:
    """The points of a hand or face that are there; for some writers of poses those at 0, 0 are not."""
    spots = {index: (int(x), int(y)) for index, (x, y, confidence) in enumerate(points) if confidence > 0}
    return {index: (x, y) for index, (x, y) in spots.items() if x > 0 and y > 0}


def _draw_dots(canvas: Array, spots: Iterable[Spot], radius: int, colour: Colour) -> None:
    for spot in spots:
        cv2.circle(canvas, spot, radius, colour, -1)
