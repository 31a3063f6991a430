"""People by CMU's OpenPose: bodies, hands and faces, as control models for poses know them.

Source: Z. Cao and others, OpenPose: Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields,
2019; T. Simon and others, Hand Keypoint Detection in Single Images using Multiview Bootstrapping, 2017. The
bodies' network says for each pixel how likely a part of the body lies there, and which way each limb runs
there; parts are joined along the limbs. The scales and thresholds are those of ControlNet 1.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, update_wrapper
from itertools import pairwise
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controlstack.downloads import File
from controlstack.geometry import padded
from controlstack.image import Array
from controlstack.networks import State, filled, pixels
from controlstack.packages import controlnet_aux
from controlstack.pose import Person, Points, Pose
from controlstack.preprocess import Ask, poser, register

Maps: TypeAlias = NDArray[np.float64]
""" "C H W"."""
Square: TypeAlias = tuple[int, int, int]
"""Left, top and side, px."""

_cmu = partial(
    File, "lllyasviel/Annotators", folder="openpose", licence="CMU's, non-commercial", placed_by_user=True
)
BODY = _cmu(
    "body_pose_model.pth",
    sha256="25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746",
    size=209_267_595,
)
HAND = _cmu(
    "hand_pose_model.pth",
    sha256="b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600",
    size=147_341_049,
)
FACE = _cmu(
    "facenet.pth",
    sha256="8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43",
    size=153_718_792,
)

STRIDE = 8
"""px of the picture to a cell of the maps"""
BODY_HEIGHT = 184
"""px of the picture that the bodies' network sees"""
HAND_SIDES, FACE_SIDE = (184, 368, 552, 736), 384
SMALLEST = 20
"""px of a hand or face that is looked at"""

_LIMBS = (
    *((1, 2, 12), (1, 5, 20), (2, 3, 14), (3, 4, 16), (5, 6, 22), (6, 7, 24), (1, 8, 0), (8, 9, 2)),
    *((9, 10, 4), (1, 11, 6), (11, 12, 8), (12, 13, 10), (1, 0, 28), (0, 14, 30), (14, 16, 34)),
    *((0, 15, 32), (15, 17, 36), (2, 16, 18), (5, 17, 26)),
)
"""Two body points from 0 and the first of their two fields, in the order in which they are joined."""
_STARTING = 17
"""Limbs from here on, shoulder to ear, join people and start none."""
_NOTHING: Points = np.empty((0, 3))


def people(image: Array, ask: Ask, *, body: bool = True, hands: bool = False, face: bool = False) -> Pose:
    """Everybody in the picture, and which of their parts are wanted."""
    picture, crop = padded(image, ask.resolution)
    seen = np.ascontiguousarray(picture[:, :, ::-1])  # the networks learned from BGR
    network = ask.networks.get(BODY, _body_network)
    bodies = joined(*_body_maps(seen, network))
    left, right, faces = ([_NOTHING] * len(bodies) for _ in range(3))
    if hands:
        network = ask.networks.get(HAND, _hand_network)
        left, right = ([_hand(seen, one, arm, network) for one in bodies] for arm in ((5, 6, 7), (2, 3, 4)))
    if face:
        network = ask.networks.get(FACE, _face_network)
        faces = [_face(seen, one, network) for one in bodies]
    shown = bodies if body else [_NOTHING] * len(bodies)
    height, width = (part.stop for part in crop)
    return Pose(width, height, tuple(map(Person, shown, left, right, faces)))


def joined(heat: Maps, fields: Maps) -> list[Points]:
    """Bodies "18 3" of a map for each point and the ground, "19 H W", and two for each limb, "38 H W"."""
    peaks = [_peaks(one) for one in heat[:-1]]
    drafts: list[_Draft] = []
    for number, (start, end, first) in enumerate(_LIMBS):
        for a, b, sure in _limbs(peaks[start], peaks[end], fields[first : first + 2]):
            ends = {start: a, end: b}
            score = sure + peaks[end][b][2]
            own = [draft for draft in drafts if any(draft.peaks.get(part) == at for part, at in ends.items())]
            if len(own) > 1 and not own[0].peaks.keys() & own[1].peaks.keys():
                own[0].peaks |= own[1].peaks
                own[0].count += own[1].count
                own[0].score += own[1].score + sure
                drafts.remove(own[1])
            elif own and (len(own) > 1 or own[0].peaks.get(end) != b):
                own[0].peaks[end] = b
                own[0].count += 1
                own[0].score += score
            elif not own and number < _STARTING:
                drafts.append(_Draft(ends, 2, score + peaks[start][a][2]))
    bodies = []
    for draft in drafts:
        if draft.count >= 4 and draft.score / draft.count >= 0.4:
            bodies.append(np.zeros((len(peaks), 3)))
            for part, at in draft.peaks.items():
                bodies[-1][part] = (*peaks[part][at][:2], 1)
    return bodies


@dataclass(eq=False)
class _Draft:
    """A person while limbs are joined: the peak of each part, how many were joined, how likely all are."""

    peaks: dict[int, int]
    count: int
    score: float


def _peaks(heat: Maps) -> Points:
    """Where a map "H W" is highest around: x, y, height, row by row."""
    smooth = _blurred(heat)
    around = cv2.dilate(smooth, np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8))
    y, x = np.nonzero((smooth >= around) & (smooth > 0.1))
    return np.stack([x, y, heat[y, x]], axis=1)


def _blurred(heat: Maps) -> Maps:
    return np.asarray(cv2.GaussianBlur(heat, (25, 25), 3, borderType=cv2.BORDER_REFLECT))


def _limbs(starts: Points, ends: Points, field: Maps) -> Iterator[tuple[int, int, float]]:
    """Which starts and ends a limb's field connects, by their places, surest first, each once."""
    found = []
    for a, start in enumerate(starts[:, :2]):
        for b, end in enumerate(ends[:, :2]):
            length = max(0.001, math.hypot(*(end - start)))
            x, y = np.rint(np.linspace(start, end, 10)).astype(int).T
            along = (end - start) / length @ field[:, y, x]
            sure = along.mean() + min(0.5 * field.shape[1] / length - 1, 0)
            if (along > 0.05).sum() > 0.8 * len(along) and sure > 0:
                found.append((a, b, float(sure)))
    taken: tuple[set[int], set[int]] = (set(), set())
    for a, b, sure in sorted(found, key=lambda limb: -limb[2]):
        if a not in taken[0] and b not in taken[1]:
            taken[0].add(a)
            taken[1].add(b)
            yield a, b, sure


def _body_maps(picture: Array, network: nn.Module) -> tuple[Maps, Maps]:
    """The maps of points and limbs, in the picture's size."""
    height, width = picture.shape[:2]
    scale = BODY_HEIGHT / height
    small = _resized(picture, int(width * scale), int(height * scale))
    h, w = small.shape[:2]
    bordered = cv2.copyMakeBorder(
        small, 0, -h % STRIDE, 0, -w % STRIDE, cv2.BORDER_CONSTANT, value=(128, 128, 128)
    )
    with torch.no_grad():
        fields, heat = (found[0].float().cpu().numpy() for found in network(_seen(bordered, network)))

    def full(one: NDArray[np.float32]) -> NDArray[np.float32]:
        return _resized(_enlarged(one)[:h, :w], width, height)

    return np.stack([full(one) for one in heat]).astype(float), np.stack(
        [full(one) for one in fields]
    ).astype(float)


def _hand(picture: Array, body: Points, arm: tuple[int, int, int], network: nn.Module) -> Points:
    """21 points of the hand of an arm, given by shoulder, elbow and wrist."""
    if not body[list(arm), 2].all():
        return _NOTHING
    shoulder, elbow, wrist = body[list(arm), :2]
    side = 1.5 * max(math.dist(wrist, elbow), 0.9 * math.dist(elbow, shoulder))
    corner = (wrist + 0.33 * (wrist - elbow) - side / 2).clip(0)
    height, width = picture.shape[:2]
    side = min(side, width - corner[0], height - corner[1])
    if side < SMALLEST:
        return _NOTHING
    x, y, side = (int(number) for number in (*corner, side))
    smooth = cv2.GaussianBlur(picture[y : y + side, x : x + side], (0, 0), 0.8)
    heat = np.zeros((21, 128, 128))
    with torch.no_grad():
        for size in HAND_SIDES:
            maps = network(_seen(_resized(smooth, size, size), network))[0].float().cpu().numpy()
            heat += [_resized(_enlarged(one), 128, 128) / len(HAND_SIDES) for one in maps[:21]]
    return _placed([_likeliest(one) for one in heat], side / 128, x, y)


def _likeliest(heat: Maps) -> tuple[int, int]:
    """The highest point of the heaviest hill of a map, 0, 0 if there is none."""
    count, hills = cv2.connectedComponents((_blurred(heat) > 0.05).astype(np.uint8), connectivity=8)
    if count == 1:
        return 0, 0
    weights = np.bincount(hills.ravel(), heat.ravel())
    y, x = np.unravel_index(np.where(hills == 1 + weights[1:].argmax(), heat, 0).argmax(), heat.shape)
    return int(x), int(y)


def _face(picture: Array, body: Points, network: nn.Module) -> Points:
    """70 points of a face."""
    square = _around_face(body, *picture.shape[1::-1])
    if square is None:
        return _NOTHING
    x, y, side = square
    crop = picture[y : y + side, x : x + side]
    with torch.no_grad():
        heat = network(_seen(_resized(crop, FACE_SIDE, FACE_SIDE), network))[:, :70]
    heat = nn.functional.interpolate(heat.float(), crop.shape[:2], mode="bilinear", align_corners=True)[0]
    highest, places = heat.flatten(1).cpu().max(dim=1)
    spots = [divmod(int(place), crop.shape[1])[::-1] for place in places]
    return _placed(
        [spot if high > 0.05 else (0, 0) for spot, high in zip(spots, highest, strict=True)], 1, x, y
    )


def _around_face(body: Points, width: int, height: int) -> Square | None:
    """The square around a nose that reaches well over eyes and ears."""
    nose, *others = body[[0, 14, 15, 16, 17]]
    reaches = [
        times * np.abs(other[:2] - nose[:2]).max()
        for other, times in zip(others, (3, 3, 1.5, 1.5), strict=True)
        if other[2]
    ]
    if not nose[2] or not reaches:
        return None
    reach = max(reaches)
    x, y = (nose[:2] - reach).clip(0)
    # beyond the picture's edge it ends there only where even half of it would not fit, as in ControlNet
    side = min(room if room < reach else 2 * reach for room in (width - x, height - y))
    return (int(x), int(y), int(side)) if side >= SMALLEST else None


def _placed(spots: list[tuple[int, int]], scale: float, left: int, top: int) -> Points:
    """Points of the picture of those in a crop, where 0 is a point that was not found."""
    points = (np.array(spots) * scale).astype(int)
    there = (points > 0).all(axis=1)
    return np.column_stack([points + np.array([left, top]), there]).astype(float)


def _seen(picture: Array, network: nn.Module) -> Tensor:
    return pixels(picture, network) / 256 - 0.5


def _enlarged(one: NDArray[np.float32]) -> NDArray[np.float32]:
    return _resized(one, STRIDE * one.shape[1], STRIDE * one.shape[0])


def _resized(picture: NDArray[np.generic], width: int, height: int) -> NDArray[np.generic]:
    method = cv2.INTER_AREA if width + height < sum(picture.shape[:2]) else cv2.INTER_LANCZOS4
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method))


def _body_network(state: State) -> nn.Module:
    return _with_short_names(controlnet_aux("open_pose.model").bodypose_model(), state)


def _hand_network(state: State) -> nn.Module:
    return _with_short_names(controlnet_aux("open_pose.model").handpose_model(), state)


def _with_short_names(network: nn.Module, state: State) -> nn.Module:
    """In the file names lack the stage, which comes first in the library's."""
    return filled(network, {name: state[name.partition(".")[2]] for name in network.state_dict()})


def _face_network(state: State) -> nn.Module:
    return filled(FaceNet(), state)


class FaceNet(nn.Module):
    """A picture "B 3 H W" to maps "B 71 H/8 W/8" of 70 points and the ground, refined in six stages.

    Written here after the layout of the published weights, whose names are the layers'.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = {
            1: (3, 64, 64),
            2: (64, 128, 128),
            3: (128, *[256] * 4),
            4: (256, *[512] * 4),
            5: (512, 512, 512),
        }
        for block, sizes in widths.items():
            for number, (inner, outer) in enumerate(pairwise(sizes), 1):
                self.add_module(f"conv{block}_{number}", nn.Conv2d(inner, outer, 3, padding=1))
        self.conv5_3_CPM = nn.Conv2d(512, 128, 3, padding=1)
        self.conv6_1_CPM = nn.Conv2d(128, 512, 1)
        self.conv6_2_CPM = nn.Conv2d(512, 71, 1)
        for stage in range(2, 7):
            sizes = (199, 128, 128, 128, 128, 128, 128, 71)
            for number, (inner, outer) in enumerate(pairwise(sizes), 1):
                size = 7 if number < 6 else 1
                layer = nn.Conv2d(inner, outer, size, padding=size // 2)
                self.add_module(f"Mconv{number}_stage{stage}", layer)

    def forward(self, x: Tensor) -> Tensor:
        """The last stage's maps. x: -0.5..0.5"""
        stages: dict[str, list[nn.Module]] = {}
        for name, layer in self.named_children():
            key = name.rpartition("_")[2] if name.startswith("M") else name[:5]
            stages.setdefault(key, []).append(layer)
        for key in ("conv1", "conv2", "conv3", "conv4"):
            x = _all_relu(stages[key], x)
            x = x if key == "conv4" else nn.functional.max_pool2d(x, 2)
        features = _all_relu(stages["conv5"], x)
        maps = _last_plain(stages["conv6"], features)
        for stage in range(2, 7):
            maps = _last_plain(stages[f"stage{stage}"], torch.cat([maps, features], 1))
        return maps


def _all_relu(layers: list[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x).relu()
    return x


def _last_plain(layers: list[nn.Module], x: Tensor) -> Tensor:
    maps: Tensor = layers[-1](_all_relu(layers[:-1], x))
    return maps


for _name, _priority, _parts, _files in (
    ("openpose", 0, {}, (BODY,)),
    ("openpose_hand", 0, {"hands": True}, (BODY, HAND)),
    ("openpose_face", 0, {"face": True}, (BODY, FACE)),
    ("openpose_faceonly", 0, {"body": False, "face": True}, (BODY, FACE)),
    ("openpose_full", 100, {"hands": True, "face": True}, (BODY, HAND, FACE)),
):
    register(
        poser(
            update_wrapper(partial(people, **_parts), people),
            name=_name,
            label=_name,
            priority=_priority,
            network="OpenPose",
            files=_files,
            packages=("controlnet_aux",),
        )
    )
