"""dw_openpose_full and animal_openpose: real ONNX files of the published inputs and outputs, small inside.

The published ones: yolox_l.onnx takes "1 3 640 640" and gives "1 8400 85", dw-ll_ucoco_384.onnx takes
"1 3 384 288" and gives simcc_x "1 133 576" and simcc_y "1 133 768", RTMPose for AP-10K takes "1 3 256 256"
and gives 17 of 512 each. What is done before and after them is spelled out here as in mmpose.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import weights
from numpy.typing import NDArray
from small_onnx import make

from controlstack import onnx, packages, pose
from controlstack.errors import ControlError
from controlstack.image import Array
from controlstack.networks import Networks
from controlstack.preprocess import Cache, find

ROOM = sys.modules[find("dw_openpose_full").pose.__module__]
FILES = {"yolox": ROOM.YOLOX, "wholebody": ROOM.DWPOSE, "ap10k": ROOM.AP10K}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    folder = tmp_path_factory.mktemp("downloads")
    for name, file in FILES.items():
        weights.offered(folder, file, partial(shutil.copy, make.HERE / f"{name}.onnx"))
    return Networks(weights.Mirror(folder), "cpu")


def _detector(seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """What yolox.onnx computes, by torch, of "H W 3"."""
    picture = torch.from_numpy(seen).permute(2, 0, 1)[None]
    cells = []
    for stride, (weight, bias) in zip(make.STRIDES, make.heads(), strict=True):
        pooled = torch.nn.functional.avg_pool2d(picture, stride)
        weights = torch.from_numpy(weight)[:, :, None, None]
        cells.append(torch.nn.functional.conv2d(pooled, weights, torch.from_numpy(bias))[0].flatten(1).T)
    found = torch.cat(cells)
    return torch.cat([found[:, :4], found[:, 4:].sigmoid()], 1).numpy()


def _pointer(seen: NDArray[np.float32], points: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What wholebody.onnx and ap10k.onnx compute, of "H W 3"."""
    x, y = (seen.mean(axis=axis) @ make.mixture(points) for axis in (0, 1))
    return tuple((1 / (1 + np.exp(-line))).T.reshape(points, -1) for line in (x, y))


def test_the_files_are_run(networks: Networks):
    random = np.random.default_rng(0)
    seen = random.uniform(0, 255, (640, 640, 3)).astype(np.float32)
    (cells,) = ROOM._run(networks.open(ROOM.YOLOX, onnx.read), seen)
    assert cells.shape == (8400, 85)
    assert np.allclose(cells, _detector(seen), atol=1e-4)
    for file, points, shape in ((ROOM.DWPOSE, 133, (384, 288, 3)), (ROOM.AP10K, 17, (256, 256, 3))):
        seen = random.normal(0, 1, shape).astype(np.float32)
        found = ROOM._run(networks.open(file, onnx.read), seen)
        expected = _pointer(seen, points)
        assert [one.shape for one in found] == [(points, 2 * shape[1]), (points, 2 * shape[0])]
        assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


@pytest.fixture
def scene() -> Array:
    """A picture of 640x640 px: in its cells lie two people, a red and a blue one, and a green dog."""
    random = np.random.default_rng(1)
    picture = random.integers(0, 40, (640, 640, 3), dtype=np.uint8)
    picture[96:128, 160:192, 0] = 255
    picture[400:408, 240:248, 2] = 255
    picture[512:528, 448:464, 1] = 255
    return picture


BOXES = {
    "red": (176 - 80, 112 - 80, 176 + 80, 112 + 80),
    "blue": (244 - 20, 404 - 20, 244 + 20, 404 + 20),
    "green": (456 - 40, 520 - 40, 456 + 40, 520 + 40),
}
"""Five cells to each side of the middle of a coloured cell, which is half of a box."""


def test_boxes_are_where_the_figures_are(networks: Networks, scene: Array):
    detector = networks.open(ROOM.YOLOX, onnx.read)
    people = ROOM._boxes(scene, detector, ROOM.PERSON)
    assert sorted(map(tuple, np.rint(people).tolist())) == sorted([BOXES["red"], BOXES["blue"]])
    animals = ROOM._boxes(scene, detector, ROOM.ANIMALS)
    assert [tuple(box) for box in np.rint(animals).tolist()] == [BOXES["green"]]


def test_boxes_of_another_size_and_shape(networks: Networks, scene: Array):
    """A picture of 320x160 px is doubled for the detector and stands at its upper left."""
    half = np.ascontiguousarray(cv2.resize(scene, (320, 320), interpolation=cv2.INTER_AREA)[:160])
    (box,) = ROOM._boxes(half, networks.open(ROOM.YOLOX, onnx.read), ROOM.PERSON)
    assert np.allclose(box, np.array(BOXES["red"]) / 2, atol=1)


def test_boxes_that_overlap_hold_one_figure():
    """Of 100x100 px each: by 60 of 100 the union is 140 wide and the share 0.43, by 64 it is 0.47."""
    base = np.float32([0, 0, 99, 99])
    assert len(ROOM._apart([base, base + np.float32([40, 0, 40, 0])])) == 2
    assert len(ROOM._apart([base, base + np.float32([36, 0, 36, 0])])) == 1
    chain = [base + np.float32([30 * i, 0, 30 * i, 0]) for i in range(3)]
    assert np.array_equal(ROOM._apart(chain), [chain[0], chain[2]])  # what is dropped hides nothing


def _expected(
    picture: Array, box: tuple[float, ...], points: int, size: tuple[int, int]
) -> NDArray[np.float64]:
    """mmpose: bbox_xyxy2cs, TopdownAffine, SimCC's decoding with two bins to a pixel."""
    x0, y0, x1, y1 = box
    center, scale = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.array([x1 - x0, y1 - y0]) * 1.25
    aspect = size[0] / size[1]
    scale = np.array(
        [scale[0], scale[0] / aspect] if scale[0] > scale[1] * aspect else [scale[1] * aspect, scale[1]]
    )
    corners = np.float32([center, center - scale * (0, 0.5), center + scale * (0.5, 0)])
    target = np.float32([(size[0] / 2, size[1] / 2), (size[0] / 2, 0), (size[0], size[1] / 2)])
    seen = cv2.warpAffine(picture, cv2.getAffineTransform(corners, target), size, flags=cv2.INTER_LINEAR)
    x, y = _pointer(((seen - np.array(ROOM.MEAN)) / np.array(ROOM.DEVIATION)).astype(np.float32), points)
    found = np.stack([x.argmax(axis=1), y.argmax(axis=1)], axis=1) / 2
    found = found / size * scale + center - scale / 2
    return np.column_stack([found, np.minimum(x.max(axis=1), y.max(axis=1))])


@pytest.mark.parametrize("shape", [("wholebody", 133, (288, 384)), ("ap10k", 17, (256, 256))])
@pytest.mark.parametrize("box", [(100, 80, 180, 400), (-20, 100, 400, 180)])
def test_points_of_a_box(
    networks: Networks, astronaut: Array, shape: tuple[str, int, tuple[int, int]], box: tuple[int, ...]
):
    name, points, size = shape
    network = networks.open(FILES[name], onnx.read)
    found = ROOM._points(astronaut, np.float32(box), network, size)
    expected = _expected(astronaut, box, points, size)
    near = np.abs(found[:, :2] - expected[:, :2]).max(axis=1) < 1e-3
    assert near.mean() > 0.95  # two bins that are equally high to the last bit may change places
    assert np.allclose(found[:, 2], expected[:, 2], atol=2e-3)
    assert len(np.unique(found.round(), axis=0)) > 5


def test_a_whole_body_in_openposes_order(networks: Networks):
    """COCO-WholeBody: 17 of the body, 6 of the feet, 68 of the face, 21 of each hand; the neck is made."""
    points = np.column_stack([np.arange(133), 1000 + np.arange(133), np.ones(133)])
    points[[3, 100]] *= (1, 1, 0.29)
    person = ROOM._person(points)
    order = [0, 5.5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    assert person.body[:, 0].tolist() == order
    assert person.body[:, 2].tolist() == [1] * 17 + [0]
    assert person.face[:, 0].tolist() == [*range(23, 91), 2, 1]
    assert person.left_hand[:, 0].tolist() == [*range(91, 112)]
    assert np.flatnonzero(person.left_hand[:, 2] == 0).tolist() == [9]
    assert person.right_hand[:, 0].tolist() == [*range(112, 133)]
    points[6, 2] = 0.2
    assert ROOM._person(points).body[1, 2] == 0


def test_people_and_animals_are_drawn(networks: Networks, scene: Array):
    cache = Cache(networks=networks)
    for name in ("dw_openpose_full", "animal_openpose"):
        preprocessor = find(name)
        ask = preprocessor.ask(640)
        found = cache.pose(preprocessor, scene, ask)
        figures = (len(found.people), len(found.animals))
        assert figures == ((2, 0) if name == "dw_openpose_full" else (0, 1))
        map_ = cache.run(preprocessor, scene, ask)
        assert map_.any()
        assert np.array_equal(map_, pose.draw(pose.parse(pose.write(found))))


@pytest.mark.parametrize("name", ["dw_openpose_full", "animal_openpose"])
@pytest.mark.parametrize(("h", "w"), [(61, 91), (300, 451), (1, 1)])
def test_any_size(networks: Networks, chelsea: Array, name: str, h: int, w: int):
    picture = np.ascontiguousarray(chelsea[:h, :w])
    before = picture.copy()
    ask = replace(find(name).ask(64), networks=networks)
    map_ = find(name).run(picture, ask)
    assert map_.shape == (round(h * 64 / min(h, w)), round(w * 64 / min(h, w)), 3)
    assert np.array_equal(picture, before)
    assert np.array_equal(find(name).run(picture, ask), map_)


def test_another_networks_file_is_refused(tmp_path: Path, scene: Array):
    for file in FILES.values():
        networks = weights.offered(tmp_path, file, lambda path: path.write_bytes(b"no network at all"))
    with pytest.raises(ControlError, match=r"yolox_l\.onnx holds weights of another network"):
        Cache(networks=networks).run(find("dw_openpose_full"), scene, find("dw_openpose_full").ask(64))


def test_opencv_takes_the_place_of_a_broken_onnxruntime(
    networks: Networks,
    scene: Array,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    (tmp_path / "onnxruntime.py").write_text("raise RuntimeError('broken on purpose')")
    for module in [module for module in sys.modules if module.partition(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packages, "_failed", {})
    networks.unload()
    preprocessor = find("dw_openpose_full")
    with caplog.at_level("WARNING"):
        assert Cache(networks=networks).run(preprocessor, scene, preprocessor.ask(640)).any()
    assert "onnxruntime cannot be imported" in caplog.text
    networks.unload()
