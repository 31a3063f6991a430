"""Spheres, boxes, cones, cylinders and figures, shaded, as layers of a scene of 128 × 128 px."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 128
"""px of a side"""
Plane: TypeAlias = NDArray[np.floating[Any]]
""" "h w" """
Points: TypeAlias = NDArray[np.float64]
Rng: TypeAlias = np.random.Generator
Y, X = (axis.astype(np.float32) for axis in np.mgrid[:SIZE, :SIZE])

AMBIENT = 0.55
BULGE = 0.12
"""How much nearer the front of a round solid is, of the whole range of depth."""


@dataclass(frozen=True)
class Stand:
    """Where an object stands: the middle of its foot in px, its height in px, how near (0..1) it is."""

    left: float
    bottom: float
    size: float
    near: float


@dataclass(frozen=True, eq=False)
class Layer:
    """An object: how much of each pixel it covers, how bright its colour is there, how near it is."""

    cover: Plane
    shade: Plane
    depth: Plane
    body: Points | None = None


def direction(rng: Rng) -> tuple[float, float, float]:
    """To the light, of length 1; x to the right, y down, z to the eye."""
    across = float(rng.uniform(0.35, 0.75)) * float(rng.choice((-1, 1)))
    down = float(rng.uniform(-0.65, -0.3))
    return across, down, (1 - across**2 - down**2) ** 0.5


def smooth_noise(rng: Rng) -> Plane:
    """Clouds of standard deviation about 1."""
    found: Plane = cv2.resize(
        rng.standard_normal((9, 9)).astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC
    )
    return found


def shadow(stand: Stand) -> Plane:
    """A factor that darkens the ground around a foot, too softly for an edge."""
    half = 0.55 * stand.size
    across, along = (X - stand.left) / half, (Y - stand.bottom) / (0.35 * half)
    found: Plane = (1 - 0.35 * np.exp(-1.5 * (across**2 + along**2))).astype(np.float32)
    return found


def sphere(rng: Rng, stand: Stand, light: tuple[float, float, float]) -> Layer:
    r = 0.42 * stand.size
    x, y = (X - stand.left) / r, (Y - (stand.bottom - r)) / r
    front = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    cover = _cover(r * (np.hypot(x, y) - 1))
    return Layer(cover, _lit(x, y, front, light), stand.near + BULGE * front)


def cylinder(rng: Rng, stand: Stand, light: tuple[float, float, float]) -> Layer:
    half, height = stand.size * rng.uniform(0.2, 0.32), stand.size * rng.uniform(0.75, 1.0)
    flat = 0.3 * half
    top, foot = stand.bottom - height + flat, stand.bottom - flat
    across = np.clip((X - stand.left) / half, -1, 1)
    front = np.sqrt(1 - across**2)
    side = np.maximum(np.abs(X - stand.left) - half, np.maximum(top - Y, Y - foot))
    lid = _cover(_ellipse(stand.left, top, half, flat))
    body = np.maximum(_cover(np.minimum(side, _ellipse(stand.left, foot, half, flat))), lid)
    shade = _lit(across, np.zeros_like(across), front, light) * (1 - lid) + 1.08 * lid
    return Layer(body, shade, stand.near + BULGE * front * (1 - lid))


def cone(rng: Rng, stand: Stand, light: tuple[float, float, float]) -> Layer:
    half, height = stand.size * rng.uniform(0.28, 0.42), stand.size * rng.uniform(0.8, 1.05)
    flat = 0.3 * half
    top, foot = stand.bottom - height, stand.bottom - flat
    wide = half * np.clip((Y - top) / (foot - top), 1e-3, 1)
    slope = (np.abs(X - stand.left) - half * (Y - top) / (foot - top)) * (height / np.hypot(height, half))
    side = np.maximum(slope, Y - foot)
    across = np.clip((X - stand.left) / wide, -1, 1)
    front = np.sqrt(1 - across**2)
    cover = _cover(np.minimum(side, _ellipse(stand.left, foot, half, flat)))
    shade = _lit(0.95 * across, np.full_like(across, -0.3), 0.95 * front, light)
    return Layer(cover, shade, stand.near + BULGE * front * wide / half)


def box(rng: Rng, stand: Stand, light: tuple[float, float, float]) -> Layer:
    half, height = stand.size * rng.uniform(0.26, 0.4), stand.size * rng.uniform(0.5, 0.85)
    right = stand.size * rng.uniform(0.12, 0.26) * float(rng.choice((-1, 1)))
    up = stand.size * rng.uniform(0.1, 0.2)
    x0, x1, y0, y1 = stand.left - half, stand.left + half, stand.bottom - height, stand.bottom
    edge = x1 if right > 0 else x0
    front = _polygon(((x0, y0), (x1, y0), (x1, y1), (x0, y1)))
    side = _polygon(((edge, y0), (edge + right, y0 - up), (edge + right, y1 - up), (edge, y1)))
    lid = _polygon(((x0, y0), (x1, y0), (x1 + right, y0 - up), (x0 + right, y0 - up)))
    faces_light = right * light[0] > 0
    shade = np.full_like(front, 0.85 if faces_light else 0.95)
    shade = shade * (1 - side) + (1.0 if faces_light else 0.5) * side
    shade = shade * (1 - lid) + (0.68 if faces_light else 1.1) * lid
    cover = np.clip(np.maximum(front, np.maximum(side, lid)), 0, 1)
    return Layer(cover, shade, stand.near + BULGE * (0.6 * front + 0.3 * (1 - front)))


def figure(rng: Rng, stand: Stand, light: tuple[float, float, float]) -> Layer:
    """A figure of limbs; its head and legs do not take its colour fully."""
    size = 1.25 * stand.size
    body = _joints(rng, Stand(stand.left, stand.bottom, size, stand.near))
    point = body[:, :2]
    legs = np.minimum.reduce(
        [_limb(point[a], point[b], 0.055 * size) for a, b in ((8, 9), (9, 10), (11, 12), (12, 13))]
    )
    torso = np.minimum.reduce([_limb(point[1], (point[8] + point[11]) / 2, 0.105 * size)])
    arms = np.minimum.reduce(
        [_limb(point[a], point[b], 0.048 * size) for a, b in ((2, 3), (3, 4), (5, 6), (6, 7), (2, 5))]
    )
    head = np.hypot(X - point[0, 0], Y - point[0, 1]) - 0.1 * size
    shade = np.full_like(X, 0.95)
    for part, bright in ((legs, 0.55), (arms, 0.85), (head, 0.75)):
        cover = _cover(part)
        shade = shade * (1 - cover) + bright * cover
    cover = _cover(np.minimum.reduce([legs, torso, arms, head]))
    return Layer(cover, shade, np.full_like(X, stand.near + 0.5 * BULGE), body)


Maker: TypeAlias = Callable[[Rng, Stand, tuple[float, float, float]], Layer]
KINDS: dict[str, Maker] = {
    "sphere": sphere,
    "box": box,
    "cone": cone,
    "cylinder": cylinder,
    "figure": figure,
}
WORDS = {
    "sphere": "{colour} sphere",
    "box": "{colour} box",
    "cone": "{colour} cone",
    "cylinder": "{colour} cylinder",
    "figure": "person in {colour}",
}


def _joints(rng: Rng, stand: Stand) -> Points:
    """18 body points in OpenPose's order, eyes and ears missing; right is on the picture's left."""
    size, foot = stand.size, stand.bottom
    lean = rng.uniform(-0.12, 0.12)
    points = np.zeros((18, 3))

    def put(index: int, x: float, y: float) -> None:
        points[index] = x, y, 1

    hip_y, neck_y = foot - 0.48 * size, foot - 0.8 * size
    neck_x = stand.left + lean * size
    put(0, neck_x + 0.3 * lean * size, foot - 0.92 * size)
    put(1, neck_x, neck_y)
    for side, shoulder, hip in ((-1, 2, 8), (1, 5, 11)):
        put(shoulder, neck_x + side * 0.11 * size, neck_y + 0.02 * size)
        raised = rng.uniform(-0.6, 1.5)
        bent = raised + rng.uniform(-0.2, 1.0)
        for index, angle in ((shoulder + 1, raised), (shoulder + 2, bent)):
            x, y, _ = points[index - 1]
            put(index, x + side * 0.17 * size * np.cos(angle - 0.6), y - 0.17 * size * np.sin(angle - 0.6))
        put(hip, stand.left + side * 0.065 * size, hip_y)
        spread = rng.uniform(0.0, 0.5)
        for index, angle in ((hip + 1, spread), (hip + 2, spread * rng.uniform(0.2, 1.0))):
            x, y, _ = points[index - 1]
            put(index, x + side * 0.24 * size * np.sin(angle), y + 0.24 * size * np.cos(angle))
    return points


def _lit(x: Plane, y: Plane, z: Plane, light: tuple[float, float, float]) -> Plane:
    """Lambert's law over an ambient light."""
    found: Plane = AMBIENT + 0.5 * np.clip(x * light[0] + y * light[1] + z * light[2], 0, 1)
    return found


def _cover(distance: Plane) -> Plane:
    """Of the pixels of a shape with this signed distance in px, negative inside."""
    found: Plane = np.clip(0.5 - distance, 0, 1)
    return found


def _ellipse(left: float, top: float, across: float, along: float) -> Plane:
    """The distance to an ellipse to first order: value over slope."""
    x, y = (X - left) / across, (Y - top) / along
    radius = np.hypot(x, y) + 1e-6
    found: Plane = (radius - 1) * radius / (np.hypot(x / across, y / along) + 1e-6)
    return found


def _limb(start: Points, end: Points, half: float) -> Plane:
    """The distance to a capsule."""
    along = end - start
    t = np.clip(((X - start[0]) * along[0] + (Y - start[1]) * along[1]) / (along @ along + 1e-6), 0, 1)
    found: Plane = (
        np.hypot(X - start[0] - t * along[0], Y - start[1] - t * along[1]).astype(np.float32) - half
    )
    return found


def _polygon(corners: tuple[tuple[float, float], ...]) -> Plane:
    """How much of each pixel a convex polygon covers."""
    cover = np.zeros((SIZE, SIZE), np.uint8)
    corner = np.rint(np.asarray(corners) * 16).astype(np.int32)
    cv2.fillConvexPoly(cover, corner, 255, cv2.LINE_AA, 4)
    found: Plane = cover.astype(np.float32) / 255
    return found
