"""Who somebody is and where the face is, for InstantID (Wang et al., arXiv 2401.07519)."""

from __future__ import annotations

import math

import cv2
import numpy as np
from torch.nn.functional import normalize

from controlstack.embeddings import FACE, RAW_FACE
from controlstack.face_analysis import ANTELOPE, Numbers, known, largest
from controlstack.image import Array
from controlstack.preprocess import Ask, Embedding, Preprocessor, at_resolution, register

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
"""Of the eyes, the nose and the corners of the mouth."""
NOSE, FROM_NOSE = 2, (0, 1, 3, 4)
STICK, DOT, DIM = 4, 10, 0.6
"""Half the width of a stick and the radius of a dot, px; how bright sticks are."""


def shown(image: Array, ask: Ask) -> Array:
    """The picture itself."""
    return image.copy()


def embed(image: Array, ask: Ask) -> Embedding:
    """`face_embeds` and `raw_face_embeds`, both "1 512"."""
    face = largest(image, ANTELOPE, ask.networks)
    found = known(image, face, ANTELOPE, ask.networks)
    return {FACE: normalize(found), RAW_FACE: found}


@at_resolution
def keypoints(picture: Array, ask: Ask) -> Array:
    """The five points of the largest face on black."""
    height, width = picture.shape[:2]
    return drawn(largest(picture, ANTELOPE, ask.networks).points, width, height)


def drawn(points: Numbers, width: int, height: int) -> Array:
    """Sticks from the nose to the four other points "5 2", px, and a dot on each."""
    canvas = np.zeros((height, width, 3), np.uint8)
    nose = points[NOSE]
    for end in FROM_NOSE:
        (x, y), (dx, dy) = (points[end] + nose) / 2, points[end] - nose
        half, angle = int(math.hypot(dx, dy) / 2), int(math.degrees(math.atan2(dy, dx)))
        stick = cv2.ellipse2Poly((int(x), int(y)), (half, STICK), angle, 0, 360, 1)
        cv2.fillConvexPoly(canvas, stick, COLOURS[end])
    canvas = (canvas * DIM).astype(np.uint8)
    for (x, y), colour in zip(points, COLOURS, strict=True):
        cv2.circle(canvas, (int(x), int(y)), DOT, colour, -1)
    return canvas


register(
    Preprocessor(
        name="instant_id_face_keypoints",
        run=keypoints,
        label="instant_id_face_keypoints",
        control_types=("Instant-ID",),
        network="InsightFace's antelopev2",
        files=(ANTELOPE.detector,),
    )
)
register(
    Preprocessor(
        name="instant_id_face_embedding",
        run=shown,
        embed=embed,
        label="instant_id_face_embedding",
        control_types=("Instant-ID",),
        resolution=None,
        network="InsightFace's antelopev2",
        files=ANTELOPE.files,
    )
)
