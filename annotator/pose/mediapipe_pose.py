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
from controlstack.pose import Person, Points, Pose, body_of_coco
from controlstack.preprocess import Ask, poser, register

VISIBLE = 0.5
"""How sure a point has to be; what MediaPipe itself draws."""
_COCO = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
"""Which of MediaPipe's points each of COCO's is."""
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
    left, right = (_points(hand, size) for hand in (found.left_hand_landmarks, found.right_hand_landmarks))
    return Pose(width, height, (Person(body_of_coco(landmarks[_COCO]), left, right, _NOTHING),))


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
