"""OpenPose's rooms: real loading, random weights in the published layout, against controlnet_aux's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
import weights
from torch import Tensor, nn

from controlstack import pose
from controlstack.downloads import Store
from controlstack.errors import ControlError
from controlstack.image import Array
from controlstack.networks import Networks
from controlstack.pose import Points
from controlstack.preprocess import Cache, find, unavailable

ROOM = sys.modules[find("openpose").pose.func.__module__]
FAMILY = ("openpose", "openpose_hand", "openpose_face", "openpose_faceonly", "openpose_full")


@pytest.fixture(scope="module")
def aux(controlnet_aux: Callable[[str], ModuleType]) -> Callable[[str], ModuleType]:
    """OpenPose's modules in controlnet_aux. Two imports of theirs that detection does not use are lent."""
    scipy = pytest.importorskip("scipy.ndimage")
    pytest.importorskip("torchvision")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", ModuleType("matplotlib"))
        patch.setitem(
            sys.modules, "scipy.ndimage.filters", scipy
        )  # gone from SciPy 2, with the same function
        modules = {
            name: controlnet_aux(f"open_pose.{name}") for name in ("model", "util", "body", "hand", "face")
        }
    return modules.__getitem__


def _without_stage(network: nn.Module) -> dict[str, Tensor]:
    """The published files: names of `bodypose_model` and `handpose_model` of controlnet_aux 0.0.10 without
    the stage, which its `util.transfer` puts before them.
    """
    state = weights.like(network)
    return {name.partition(".")[2]: tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def networks(aux: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """All three files; that of faces has the names of controlnet_aux's `FaceNet`."""
    folder = tmp_path_factory.mktemp("openpose")
    weights.published(folder, ROOM.BODY, _without_stage(aux("model").bodypose_model()))
    weights.published(folder, ROOM.HAND, _without_stage(aux("model").handpose_model()))
    return weights.published(folder, ROOM.FACE, weights.like(aux("face").FaceNet()))


class Skeletons(nn.Module):
    """In place of the bodies' network: the maps that a perfect one would give for known people."""

    def __init__(self, people: list[Points], height: int, width: int) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        y, x = np.mgrid[:height, :width]
        heat, fields = np.zeros((19, height, width)), np.zeros((38, height, width))
        for person in people:
            for part, (at_x, at_y, there) in enumerate(person):
                hill = np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / 2) * (there > 0)
                heat[part] = np.maximum(heat[part], hill)
            for start, end, first in ROOM._LIMBS:
                a, b = person[start, :2], person[end, :2]
                way = (b - a) / max(np.hypot(*(b - a)), 1e-6)
                along = (x - a[0]) * way[0] + (y - a[1]) * way[1]
                across = np.abs((x - a[0]) * way[1] - (y - a[1]) * way[0])
                near = (along >= -1) & (along <= np.hypot(*(b - a)) + 1) & (across < 1.5)
                fields[first : first + 2, near] = way[:, None]
        self.maps = [torch.from_numpy(maps).float()[None] for maps in (fields, heat)]

    def forward(self, _seen: Tensor) -> list[Tensor]:
        return self.maps


def _crowd(seed: int, count: int, width: int, height: int) -> list[Points]:
    """People of random proportions, each missing some points, who may stand in each other's way."""
    random = np.random.default_rng(seed)
    upright = np.array(
        [
            *((0, -4), (0, -3), (-1, -3), (-1.5, -1.5), (-1.7, 0), (1, -3), (1.5, -1.5), (1.7, 0), (-0.6, 0)),
            *(
                (-0.7, 2),
                (-0.7, 4),
                (0.6, 0),
                (0.7, 2),
                (0.7, 4),
                (-0.2, -4.3),
                (0.2, -4.3),
                (-0.5, -4.1),
                (0.5, -4.1),
            ),
        ]
    )
    people = []
    for _ in range(count):
        centre = random.uniform((3, 5), (width - 3, height - 5))
        points = upright * random.uniform(0.5, 1) * height / 10 + centre + random.normal(0, 0.3, (18, 2))
        people.append(np.column_stack([points, random.random(18) > 0.15]))
    return people


@pytest.mark.parametrize(("seed", "count"), [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)])
def test_bodies_are_joined_as_the_reference_joins_them(
    aux: Callable[[str], ModuleType], seed: int, count: int
):
    picture = np.zeros((184, 248, 3), np.uint8)
    network = Skeletons(_crowd(seed, count, 31, 23), 23, 31)
    reference = aux("body").Body.__new__(aux("body").Body)
    reference.model = network
    expected = [
        [(point.x, point.y, 1) if point else (0, 0, 0) for point in person.keypoints]
        for person in reference.format_body_result(*reference(picture))
    ]
    found = ROOM.joined(*ROOM._body_maps(picture, network))
    assert expected
    assert np.array_equal(np.array(found), np.array(expected))


def test_the_networks_are_the_published_ones(aux: Callable[[str], ModuleType], networks: Networks):
    """Each loaded through the room gives what the library's own class gives with the same weights."""
    seen = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0)) / 4
    for file, build, theirs in (
        (ROOM.BODY, ROOM._body_network, aux("model").bodypose_model()),
        (ROOM.HAND, ROOM._hand_network, aux("model").handpose_model()),
        (ROOM.FACE, ROOM._face_network, aux("face").FaceNet()),
    ):
        stored = torch.load(networks.store.get(file), weights_only=True)
        if file is not ROOM.FACE:
            stored = aux("util").transfer(theirs, stored)
        theirs.load_state_dict(stored)
        with torch.no_grad():
            expected, found = theirs.eval()(seen), networks.get(file, build)(seen)
        pairs = zip(expected, found, strict=True) if file is ROOM.BODY else [(expected, found)]
        pairs = [(expected[-1], found)] if file is ROOM.FACE else pairs
        for a, b in pairs:
            assert a.std() > 1e-3
            assert torch.equal(a, b)


class Eye(nn.Module):
    """A small network of the shape of the others: maps of an eighth of the size."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(maps)
        self.weight = nn.Parameter(torch.randn(maps, 3, 16, 16, generator=generator) / 12)

    def forward(self, seen: Tensor) -> Tensor:
        return nn.functional.conv2d(seen, self.weight, stride=8, padding=4)


@pytest.fixture
def person() -> Points:
    """Someone whose right hand and face lie within astronaut, and whose left hand reaches its edge."""
    spots = {0: (222, 130), 2: (150, 300), 3: (120, 330), 4: (160, 380), 5: (380, 300), 6: (440, 400)}
    spots |= {7: (490, 420), 14: (205, 105), 16: (180, 115), 15: (245, 105)}
    body = np.zeros((18, 3))
    for part, spot in spots.items():
        body[part] = (*spot, 1)
    return body


def _reference_body(aux: Callable[[str], ModuleType], body: Points) -> object:
    points = [aux("body").Keypoint(x, y) if there else None for x, y, there in body]
    return aux("body").BodyResult(points, 1, 1)


def test_hands(aux: Callable[[str], ModuleType], person: Points, astronaut: Array):
    seen = np.ascontiguousarray(astronaut[:, :, ::-1])
    reference = aux("hand").Hand.__new__(aux("hand").Hand)
    reference.model = Eye(22)
    boxes = {left: (x, y, w) for x, y, w, left in aux("util").handDetect(_reference_body(aux, person), seen)}
    assert boxes.keys() == {True, False}
    for arm, left in (((5, 6, 7), True), ((2, 3, 4), False)):
        x, y, w = boxes[left]
        peaks = reference(seen[y : y + w, x : x + w])
        there = (peaks > 0).all(axis=1)
        found = ROOM._hand(seen, person, arm, reference.model)
        assert there.any()
        assert np.array_equal(found[:, 2], there)
        assert np.array_equal(found[there, :2], (peaks + np.array([x, y]))[there])


def test_faces(aux: Callable[[str], ModuleType], person: Points, astronaut: Array):
    """The reference's 71st map is the ground, of which it makes a point too."""
    seen = np.ascontiguousarray(astronaut[:, :, ::-1])
    reference = aux("face").Face.__new__(aux("face").Face)
    network = Eye(71)
    reference.model = lambda seen: [network(seen)]
    reference.model.parameters = network.parameters
    x, y, w = aux("util").faceDetect(_reference_body(aux, person), seen)
    assert ROOM._around_face(person, 512, 512) == (x, y, w)
    peaks = reference.compute_peaks_from_heatmaps(reference(seen[y : y + w, x : x + w])[:70])
    found = ROOM._face(seen, person, network)
    assert len(found) == len(peaks) == 70
    there = (peaks > 0).all(axis=1)
    assert np.array_equal(found[:, 2], there)
    assert np.array_equal(found[there, :2], (peaks + np.array([x, y]))[there])


@pytest.mark.parametrize("side", [(0, 130), (505, 130), (222, 2), (222, 508)])
def test_a_face_at_the_edge(aux: Callable[[str], ModuleType], person: Points, side: tuple[int, int]):
    person[:, :2] += np.array(side) - person[0, :2]
    expected = aux("util").faceDetect(_reference_body(aux, person), np.empty((512, 512, 3), np.uint8))
    assert ROOM._around_face(person, 512, 512) == expected


def test_from_the_file_to_the_figures(aux: Callable[[str], ModuleType], networks: Networks, astronaut: Array):
    """Random weights see bodies too, and the same ones in the reference."""
    reference = aux("body").Body.__new__(aux("body").Body)
    reference.model = networks.get(ROOM.BODY, ROOM._body_network)
    bodies = reference.format_body_result(*reference(astronaut[:64, :128, ::-1].copy()))
    expected = [[(p.x, p.y, 1) if p else (0, 0, 0) for p in body.keypoints] for body in bodies]
    found = Cache(networks=networks).pose(find("openpose"), astronaut[:64, :128], find("openpose").ask(64))
    assert expected
    assert np.array_equal(np.array([one.body for one in found.people]), np.array(expected))


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch, networks: Networks) -> Callable[[list[Points]], Networks]:
    """Networks whose bodies' network sees known people in cells of 8 px; the others are small."""

    def seeing(people: list[Points]) -> Networks:
        small = {ROOM.BODY: Skeletons(people, 23, 25), ROOM.HAND: Eye(22), ROOM.FACE: Eye(71)}
        monkeypatch.setattr(networks, "_load", lambda file, *_: small[file])
        networks.unload()
        return networks

    yield seeing
    networks.unload()


def test_what_each_draws(perfect: Callable[[list[Points]], Networks], chelsea: Array):
    """Bodies, hands and faces as the name says; and the JSON of a map gives the map again."""
    picture = chelsea[:, :320]
    cache = Cache(networks=perfect(_crowd(1, 2, 25, 23)))
    for name in FAMILY:
        preprocessor = find(name)
        ask = preprocessor.ask(320)
        found = cache.pose(preprocessor, picture, ask)
        assert (found.height, found.width) == (320, round(320 * 320 / 300))
        assert len(found.people) == 2
        for one in found.people:
            assert bool(len(one.body)) == (name != "openpose_faceonly"), name
            assert bool(len(one.face)) == (name in {"openpose_face", "openpose_faceonly", "openpose_full"})
        hands = any(len(one.left_hand) or len(one.right_hand) for one in found.people)
        assert hands == (name in {"openpose_hand", "openpose_full"})
        map_ = cache.run(preprocessor, picture, ask)
        assert map_.shape == (320, 341, 3)
        assert np.array_equal(pose.draw(pose.parse(pose.write(found))), map_)
    assert np.array_equal(preprocessor.run(picture, replace(ask, networks=cache.networks)), map_)


def test_nobody_is_a_black_map(perfect: Callable[[list[Points]], Networks]):
    preprocessor = find("openpose_full")
    ask = replace(preprocessor.ask(64), networks=perfect([]))
    map_ = preprocessor.run(np.full((1, 1, 3), 90, np.uint8), ask)
    assert map_.shape == (64, 64, 3)
    assert not map_.any()


@pytest.mark.parametrize("name", FAMILY)
def test_the_user_places_the_weights(name: str, tmp_path):
    """They are non-commercial: never downloaded, and the sentence says so."""
    networks = Networks(Store([tmp_path]), "cpu")
    fault = unavailable(find(name), networks)
    assert "body_pose_model.pth" in str(fault)
    assert "non-commercial" in str(fault)
    with pytest.raises(ControlError, match="non-commercial"):
        Cache(networks=networks).run(find(name), np.zeros((64, 64, 3), np.uint8), find(name).ask(64))
