"""Synthetic scenes with a caption and everything that is true of them: depth, classes, key points.

Shaded solids and simple figures stand on a ground below a horizon, or hang before a wall. Light, hue and
texture are drawn independently of depth and class. A seed gives the same scene on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from controlstack.image import Array
from controlstack.train.demo import solids
from controlstack.train.demo.solids import SIZE, Layer, Plane, Points, Rng

COLOURS = {
    "red": (215, 40, 45),
    "green": (40, 165, 70),
    "blue": (45, 85, 215),
    "yellow": (240, 210, 50),
    "purple": (145, 55, 185),
    "orange": (245, 135, 35),
    "white": (240, 240, 238),
}
GROUNDS = {
    "grass": (104, 128, 78),
    "sand": (190, 172, 132),
    "stone": (112, 112, 118),
    "earth": (100, 76, 58),
}
SKIES = {"pale sky": (188, 208, 226), "grey sky": (150, 154, 160), "dark sky": (42, 48, 74)}
WALLS = {"grey wall": (128, 128, 130), "dark wall": (52, 54, 60), "beige wall": (190, 174, 152)}
LIGHTS = {"daylight": (1.0, 1.0, 1.0), "evening light": (1.04, 0.9, 0.76)}
CLASSES = ("backdrop", "ground", *solids.KINDS)
"""What `Scene.classes` counts."""
CLASS_COLOURS = (
    *((70, 70, 70), (4, 200, 3), (230, 230, 0), (6, 51, 255)),
    *((255, 6, 82), (0, 255, 245), (150, 5, 61)),
)
"""One for each class, in hints of the segmentation model."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and the truth about it.

    picture: "h w 3", uint8
    depth: "h w", 0 (far) to 1 (near)
    classes: "h w", places in `CLASSES`
    people: of each figure the 18 body points of `controlstack.pose`, "18 3" (x px, y px, confidence)
    objects: of each object, the farthest first, its colour and kind
    """

    picture: Array
    depth: NDArray[np.float32]
    classes: NDArray[np.uint8]
    people: tuple[Points, ...]
    caption: str
    objects: tuple[tuple[str, str], ...]


@dataclass
class _Canvas:
    """What has been painted so far, the farthest first."""

    colour: Plane
    depth: Plane
    classes: NDArray[np.uint8]
    people: list[Points] = field(default_factory=list)

    def paint(self, layer: Layer, kind: int, tint: Sequence[float]) -> None:
        cover = layer.cover[..., None]
        lit = layer.shade[..., None] * np.asarray(tint, np.float32)
        self.colour = self.colour * (1 - cover) + lit * cover
        inside = layer.cover > 0.5
        self.depth[inside] = layer.depth[inside]
        self.classes[inside] = kind
        if layer.body is not None:
            self.people.append(layer.body)


def scene(seed: int) -> Scene:
    """The scene of this number, 128 × 128 px."""
    rng = np.random.default_rng(seed)
    light = str(rng.choice(list(LIGHTS)))
    open_air = rng.random() < 0.7
    canvas, horizon, place = _landscape(rng) if open_air else _wall(rng)
    direction = solids.direction(rng)
    stands = _stands(rng, horizon if open_air else None)
    colours = rng.permutation(list(COLOURS))[: len(stands)]
    objects = []
    for stand, name in zip(stands, map(str, colours), strict=True):
        kind = str(rng.choice(list(solids.KINDS), p=(0.24, 0.22, 0.2, 0.2, 0.14)))
        if open_air:
            canvas.colour *= solids.shadow(stand)[..., None]
        layer = solids.KINDS[kind](rng, stand, direction)
        canvas.paint(layer, CLASSES.index(kind), COLOURS[name])
        objects.append((name, kind))
    tinted = canvas.colour * np.asarray(LIGHTS[light], np.float32) + _texture(rng)[..., None]
    picture = np.clip(np.rint(tinted), 0, 255).astype(np.uint8)
    # The nearest come first in the caption: they are what the picture is of.
    caption = f"{_listed(list(reversed(objects)))} {place}, {light}"
    return Scene(
        picture, canvas.depth.clip(0, 1), canvas.classes, tuple(canvas.people), caption, tuple(objects)
    )


def _landscape(rng: Rng) -> tuple[_Canvas, float, str]:
    """Sky over ground, the row where they meet in the middle, and the words for it."""
    ground, sky = str(rng.choice(list(GROUNDS))), str(rng.choice(list(SKIES)))
    horizon, slope = rng.uniform(24, 76), rng.uniform(-0.12, 0.12)
    below = solids.Y - (horizon + slope * (solids.X - SIZE / 2))
    cover = np.clip(below + 0.5, 0, 1)[..., None]
    nearness = np.clip(below / (SIZE - horizon), 0, 1)
    far = np.asarray(SKIES[sky], np.float32) * (1 + 0.12 * np.clip(-below, 0, None) / SIZE)[..., None]
    near = np.asarray(GROUNDS[ground], np.float32) * (0.92 + 0.14 * nearness)[..., None]
    canvas = _Canvas(far * (1 - cover) + near * cover, 0.85 * nearness, (below > 0).astype(np.uint8))
    return canvas, horizon, f"on {ground} under a {sky}"


def _wall(rng: Rng) -> tuple[_Canvas, float, str]:
    wall = str(rng.choice(list(WALLS)))
    slope = rng.uniform(-0.12, 0.12) * (solids.X / SIZE - 0.5) + rng.uniform(-0.12, 0.12) * (
        solids.Y / SIZE - 0.5
    )
    colour = np.asarray(WALLS[wall], np.float32) * (1 + slope)[..., None]
    empty = np.zeros((SIZE, SIZE))
    return _Canvas(colour, empty.astype(np.float32), empty.astype(np.uint8)), 0.0, f"before a {wall}"


def _stands(rng: Rng, horizon: float | None) -> list[solids.Stand]:
    """Where objects stand, the farthest first; two do not stand in the same place."""
    wanted = int(rng.choice((1, 2, 3), p=(0.45, 0.4, 0.15)))
    found: list[solids.Stand] = []
    for _ in range(20):
        if len(found) == wanted:
            break
        if horizon is None:
            near, size = rng.uniform(0.15, 0.85), rng.uniform(36, 80)
            bottom = rng.uniform(size + 2, SIZE - 4)
        else:
            bottom = rng.uniform(horizon + 10, SIZE - 3)
            near = (bottom - horizon) / (SIZE - horizon)
            size = rng.uniform(42, 70) * (0.6 + 0.6 * near)
            near *= 0.85
        left = rng.uniform(0.35 * size, SIZE - 0.35 * size)
        if all(abs(left - o.left) > 0.45 * (size + o.size) for o in found):
            found.append(solids.Stand(left, bottom, size, near))
    return sorted(found, key=lambda stand: stand.near)


def _texture(rng: Rng) -> Plane:
    """Clouds too weak for any edge detector, in levels."""
    return solids.smooth_noise(rng) * rng.uniform(0, 2.5)


def _listed(objects: list[tuple[str, str]]) -> str:
    named = [solids.WORDS[kind].format(colour=colour) for colour, kind in objects]
    named = [f"an {n}" if n[0] in "aeiou" else f"a {n}" for n in named]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
