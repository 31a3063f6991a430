"""What soft edges, 0..1 or 0..255, become: few grey levels, or scribbles."""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from controlstack.image import Array

Floats: TypeAlias = NDArray[np.floating]


def mean_of_scales(scales: list[Floats], width: int, height: int) -> NDArray[np.float64]:
    """Edges "height width", 0..1, of a network's logits at several scales: the sigmoid of their mean."""
    resized = [cv2.resize(scale, (width, height), interpolation=cv2.INTER_LINEAR) for scale in scales]
    mean = np.mean(np.stack(resized, axis=2), axis=2).astype(np.float64)
    return np.asarray(1 / (1 + np.exp(-mean)))


def safe_steps(edges: Floats, steps: int) -> Floats:
    """Edges, 0..1, cut to `steps` + 2 levels, whose faint traces of the picture are gone; 0 leaves them.

    Source: ControlNet 1.1, whose models for soft edges also learned from such maps.
    """
    if steps == 0:
        return edges
    return np.asarray((edges.astype(np.float32) * np.float32(steps + 1)).astype(np.int32) / np.float32(steps))


def levels(edges: Floats) -> Array:
    """0..1 as 0..255, rounded down."""
    return np.asarray((edges * 255.0).clip(0, 255).astype(np.uint8))


def scribble(edges: Array) -> Array:
    """White strokes on black along the ridges of "H W": thinned at σ 3 px, widened again by σ 3 px.

    Source: ControlNet 1.1.
    """
    soft = cv2.GaussianBlur(edges.astype(np.float32), (0, 0), 3.0)
    across, falling = np.ones((1, 3), np.uint8), np.eye(3, dtype=np.uint8)
    lines = across, across.reshape(3, 1), falling, np.fliplr(falling).copy()
    ridge = np.any([cv2.dilate(soft, line) == soft for line in lines], axis=0)
    thin = np.where(ridge & (soft > 127), np.uint8(255), np.uint8(0))
    return np.asarray(np.where(cv2.GaussianBlur(thin, (0, 0), 3.0) > 4, np.uint8(255), np.uint8(0)))
