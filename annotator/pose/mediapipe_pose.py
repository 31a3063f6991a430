"""One person by MediaPipe, drawn as OpenPose's skeleton: body and hands. Its networks come with the package.

Source: V. Bazarevsky and others, BlazePose: On-device Real-time Body Pose Tracking, 2020, and MediaPipe
Holistic. Its 33 points have no neck, which is put between the shoulders; hands have OpenPose's order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from controlstack.geometry import padded
from controlstack.image import Array
from controlstack.packages import bring
from controlstack.pose import Person, Points, Pose
from controlstack.preprocess import Ask, poser, register

VISIBLE = 0.5
"""How sure a point has to be; what MediaPipe itself draws."""
_BODY = (0, 11, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
"""Which of MediaPipe's points each of OpenPose's is; the neck, point 1, follows from points 2 and 5."""
_NECK, _SHOULDERS = 1, [2, 5]
_NOTHING: Points = np.empty((0, 3))


def holistic(image: Array, ask: Ask) -> Pose:
    """The person that stands out most; nobody if there is none."""
    picture, crop = padded(image, ask.resolution)
    solutions = bring("mediapipe.python.solutions")
    with solutions.holistic.Holistic(static_image_mode=True) as network:
        found = network.process(picture)
    height, width = (part.stop for part in crop)
    if not found.pose_landmarks:
        return Pose(width, height)
    size = picture.shape[1::-1]
    landmarks = _points(found.pose_landmarks, size)
    landmarks[:, 2] = [point.visibility > VISIBLE for point in found.pose_landmarks.landmark]
    body = landmarks[list(_BODY)]
    body[_NECK] = body[_SHOULDERS].mean(axis=0)
    body[_NECK, 2] = body[_SHOULDERS, 2].min()
    left, right = (_points(hand, size) for hand in (found.left_hand_landmarks, found.right_hand_landmarks))
    return Pose(width, height, (Person(body, left, right, _NOTHING),))


def _points(landmarks: Any, size: tuple[int, ...]) -> Points:
    """Shares of the picture, whose size is px, as points that are all there."""
    if not landmarks:
        return _NOTHING
    return np.array([(point.x * size[0], point.y * size[1], 1) for point in landmarks.landmark])


register(
    poser(
        holistic,
        name="openpose_mediapipe",
        label="openpose_mediapipe",
        network="MediaPipe Holistic, bundled with the package",
        packages=("mediapipe",),
    )
)
