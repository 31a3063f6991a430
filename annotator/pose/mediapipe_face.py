"""Faces by MediaPipe: outlines of head, eyes, brows and mouth, and the pupils, for ControlNetMediaPipeFace.

Source: Y. Kartynnik and others, Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs, 2019.
Colours, widths and the smallest face are those that CrucibleAI/ControlNetMediaPipeFace learned from. The
networks come with the package.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from controlstack.image import Array
from controlstack.packages import bring
from controlstack.preprocess import Ask, Preprocessor, Slider, at_resolution, register

SMALLEST = 64
"""px, the shorter side of a face that is drawn"""
OUTLINES = {
    "FACEMESH_FACE_OVAL": (10, 200, 10),
    "FACEMESH_LEFT_EYE": (10, 200, 180),
    "FACEMESH_LEFT_EYEBROW": (10, 220, 180),
    "FACEMESH_RIGHT_EYE": (180, 200, 10),
    "FACEMESH_RIGHT_EYEBROW": (180, 220, 10),
    "FACEMESH_LIPS": (10, 180, 10),
}
PUPILS = {468: (250, 200, 10), 473: (10, 200, 250)}
"""Landmarks in the middle of the right and the left iris."""


@at_resolution
def mediapipe_face(picture: Array, ask: Ask) -> Array:
    """At most `ask.a` faces that are likelier than `ask.b`, on black."""
    solutions = bring("mediapipe.python.solutions")
    with solutions.face_mesh.FaceMesh(
        static_image_mode=True,
        max_num_faces=int(ask.a),
        refine_landmarks=True,
        min_detection_confidence=ask.b,
    ) as network:
        faces = network.process(picture).multi_face_landmarks or []
    canvas = np.zeros_like(picture)
    for face in faces:
        _draw(canvas, face, solutions)
    return canvas


def _draw(canvas: Array, face: Any, solutions: Any) -> None:
    height, width = canvas.shape[:2]
    spots = np.array([(point.x * width, point.y * height) for point in face.landmark])
    if np.ptp(spots, axis=0).min() < SMALLEST:
        return
    brush = solutions.drawing_utils.DrawingSpec
    lines = {
        edge: brush(color=colour, thickness=2)
        for outline, colour in OUTLINES.items()
        for edge in getattr(solutions.face_mesh, outline)
    }
    solutions.drawing_utils.draw_landmarks(canvas, face, lines.keys(), None, lines)
    for landmark, colour in PUPILS.items():
        x, y = spots[landmark].astype(int)
        if 0 <= x < width and 0 <= y < height:
            canvas[max(y - 2, 0) : y + 2, max(x - 2, 0) : x + 2] = colour


register(
    Preprocessor(
        name="mediapipe_face",
        run=mediapipe_face,
        label="mediapipe_face",
        a=Slider("Max Faces", 1, 10, 1, 1),
        b=Slider("Min Face Confidence", 0.01, 1, 0.01, 0.5),
        network="MediaPipe Face Mesh, bundled with the package",
        packages=("mediapipe",),
    )
)
