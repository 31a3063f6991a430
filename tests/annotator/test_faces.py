"""Faces: the detector and the recogniser as tiny ONNX files, against InsightFace's description of its own."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx_files
import pytest
import torch
import weights
from onnx_files import node
from skimage.transform import SimilarityTransform
from torch import nn
from torch.nn.functional import normalize

from controlstack import face_analysis, onnx, packages, preprocess
from controlstack.annotator.identity import instant_id
from controlstack.downloads import Store
from controlstack.embeddings import FACE, GREY_PATCHES, PATCHES, POOLED, RAW_FACE
from controlstack.errors import ControlError
from controlstack.face_analysis import ANTELOPE, BUFFALO, STRIDES, Numbers, Pack
from controlstack.image import Array
from controlstack.networks import Networks
from controlstack.preprocess import Cache, find

rng = np.random.default_rng(0)
BOX = np.array([2.0, 2.5, 1.5, 3.0], np.float32)
"""From a white spot to the sides of what the tiny detector takes for a face, in strides."""
POINTS = np.array([[-1, -1.5], [1, -1.2], [0.2, 0], [-0.8, 1.5], [0.9, 1.6]], np.float32)
"""From there to the eyes, the nose and the corners of the mouth."""
SEEN = rng.standard_normal((512, 3 * 7 * 7)).astype(np.float32) / 12
"""What the tiny recogniser makes of means of 16 px."""


def detector(path: Path) -> None:
    """At stride 8 it is sure of a cell as far as it is white; it knows no other stride."""
    nodes, held, made = [], {}, {}
    for stride in STRIDES:
        for kind, bias in (("score", np.zeros(1)), ("box", BOX), ("kps", POINTS.flatten())):
            name, channels = f"{kind}{stride}", 2 * len(bias)
            weight = np.zeros((channels, 3, stride, stride), np.float32)
            shift = np.tile(bias, 2).astype(np.float32)
            if kind == "score":
                # The second candidate of a cell is never surer than the first.
                weight[0], shift[:] = 0.1, -9 if stride == 8 else -99
                shift[1] = -99
            held |= {f"{name}.w": weight, f"{name}.b": shift, f"{name}.s": np.array([-1, len(bias)])}
            nodes.append(
                node(
                    "Conv",
                    ["x", f"{name}.w", f"{name}.b"],
                    f"{name}.c",
                    strides=[stride] * 2,
                    kernel_shape=[stride] * 2,
                )
            )
            nodes.append(node("Transpose", [f"{name}.c"], f"{name}.t", perm=[0, 2, 3, 1]))
            last = f"{name}.r" if kind == "score" else name
            nodes.append(node("Reshape", [f"{name}.t", f"{name}.s"], last))
            if kind == "score":
                nodes.append(node("Sigmoid", [last], name))
            made[name] = ["n" + name, len(bias)]
    # InsightFace's order: all scores, all boxes, all points.
    order = [f"{kind}{stride}" for kind in ("score", "box", "kps") for stride in STRIDES]
    onnx_files.write(path, nodes, held, {"x": [1, 3, "h", "w"]}, {name: made[name] for name in order})


def recogniser(path: Path) -> None:
    nodes = [
        node("AveragePool", ["x"], "p", strides=[16, 16], kernel_shape=[16, 16]),
        node("Flatten", ["p"], "f", axis=1),
        node("Gemm", ["f", "w"], "y", transB=1),
    ]
    onnx_files.write(path, nodes, {"w": SEEN}, {"x": [1, 3, 112, 112]}, {"y": [1, 512]})


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    folder = tmp_path_factory.mktemp("models")
    for pack in (BUFFALO, ANTELOPE):
        weights.offered(folder, pack.detector, detector)
        weights.offered(folder, pack.recogniser, recogniser)
    return Networks(weights.Mirror(folder), "cpu")


def photograph(*spots: tuple[int, int], height: int = 320, width: int = 640) -> Array:
    """White spots that fill a cell, on noise too dark to be taken for one."""
    picture = np.random.default_rng(1).integers(0, 90, (height, width, 3), dtype=np.uint8)
    for x, y in spots:
        picture[y : y + 8, x : x + 8] = 255
    return picture


@pytest.mark.parametrize("library", ["cv2", "onnxruntime"])
def test_either_library_runs_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    if library == "onnxruntime":
        pytest.importorskip("onnxruntime")
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    recogniser(tmp_path / "net.onnx")
    x = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    (y,) = onnx.read(tmp_path / "net.onnx")(x)
    expected = nn.functional.avg_pool2d(x, 16).flatten(1) @ torch.from_numpy(SEEN).T
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_a_file_that_is_no_network_is_refused_in_a_sentence(tmp_path: Path) -> None:
    networks = weights.offered(tmp_path, BUFFALO.detector, lambda path: path.write_bytes(b"<html>"))
    with pytest.raises(ControlError, match=r"det_10g\.onnx"):
        face_analysis.largest(photograph(), BUFFALO, networks)


def test_a_face_lies_where_the_detector_says(networks: Networks) -> None:
    """insightface, scrfd.py: the corners of a cell less and plus the distances, in strides of 8 px."""
    face = face_analysis.largest(photograph((200, 80)), BUFFALO, networks)
    corner = np.array([200, 80])
    np.testing.assert_allclose(face.box, [*(corner - 8 * BOX[:2]), *(corner + 8 * BOX[2:])], atol=1e-3)
    np.testing.assert_allclose(face.points, corner + 8 * POINTS, atol=1e-3)


def test_a_picture_of_another_size_is_scaled_into_the_square(networks: Networks) -> None:
    small = face_analysis.largest(photograph((200, 80)), BUFFALO, networks)
    large = cv2.resize(photograph((200, 80)), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    np.testing.assert_allclose(face_analysis.largest(large, BUFFALO, networks).box, 2 * small.box, atol=1e-2)


def test_the_largest_face_is_taken_and_one_that_is_missing_is_said(networks: Networks) -> None:
    """Candidates that overlap are one face; the surest of them counts."""
    network = networks.open(BUFFALO.detector, onnx.read)
    pair = face_analysis._faces(photograph((200, 80), (208, 80), (400, 200)), 640, network)
    assert len(pair) == 2
    with pytest.raises(ControlError, match="No face is found"):
        face_analysis.largest(photograph(), BUFFALO, networks)


def test_a_face_is_turned_as_insightface_turns_it(astronaut: Array) -> None:
    """face_align.norm_crop: skimage's SimilarityTransform and OpenCV's warpAffine."""
    points = np.array([[200, 110], [250, 105], [228, 140], [205, 165], [248, 160]], np.float32)
    face = face_analysis.Face(np.array([180, 60, 270, 190], np.float32), points)
    for side in (112, 224):
        targets = face_analysis.UPRIGHT * side / 112
        transform = _estimated(points, targets)
        np.testing.assert_allclose(face_analysis.similarity(points, targets), transform, atol=1e-6)
        expected = cv2.warpAffine(astronaut, transform, (side, side), borderValue=0.0)
        found = face_analysis.upright(astronaut, face, side)
        np.testing.assert_allclose(found.astype(int), expected, atol=1)  # to the rounding of a pixel


def _estimated(points: Numbers, targets: Numbers) -> Numbers:
    """skimage's, which renamed it."""
    if hasattr(SimilarityTransform, "from_estimate"):
        return SimilarityTransform.from_estimate(points, targets).params[:2]
    transform = SimilarityTransform()
    transform.estimate(points, targets)
    return transform.params[:2]


@pytest.mark.parametrize("name", ["ip-adapter_face_id", "instant_id_face_embedding"])
def test_who_it_is(networks: Networks, name: str) -> None:
    """arcface_onnx.py: RGB less 127.5, by 127.5; both as it comes and at length 1."""
    room = find(name)
    assert room.embed is not None
    picture = photograph((200, 80))
    found = room.embed(picture, replace(room.ask(), networks=networks))
    upright = face_analysis.upright(picture, face_analysis.largest(picture, BUFFALO, networks), 112)
    x = (torch.from_numpy(upright.astype(np.float32)).permute(2, 0, 1)[None] - 127.5) / 127.5
    expected = nn.functional.avg_pool2d(x, 16).flatten(1) @ torch.from_numpy(SEEN).T
    torch.testing.assert_close(found[RAW_FACE], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[FACE], normalize(expected), atol=1e-5, rtol=1e-4)
    assert np.array_equal(Cache(networks=networks).run(room, picture, room.ask()), picture)


def test_face_id_plus_shows_clip_the_upright_face(networks: Networks) -> None:
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    room, clip = find("ip-adapter_face_id_plus"), find("ip-adapter_clip_h")
    config = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=16)
    config |= dict(image_size=28, patch_size=14, projection_dim=8, hidden_act="gelu")
    network = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**config))
    weights.published(networks.store.folders[0], clip.files[0], dict(network.state_dict()))
    assert room.embed is not None
    assert clip.embed is not None
    picture = photograph((200, 80))
    found = room.embed(picture, replace(room.ask(), networks=networks))
    upright = face_analysis.upright(picture, face_analysis.largest(picture, BUFFALO, networks), 224)
    seen = clip.embed(upright, replace(clip.ask(), networks=networks))
    assert found.keys() >= {FACE, RAW_FACE, POOLED, PATCHES, GREY_PATCHES}
    assert torch.equal(found[PATCHES], seen[PATCHES])


def test_keypoints_are_drawn_in_instant_ids_colours(networks: Networks) -> None:
    """InstantID, draw_kps: dots of 10 px in five colours, sticks from the nose at 0.6 of them."""
    points = np.array([[60, 40], [140, 44], [100, 90], [66, 130], [130, 134]], np.float32)
    map_ = instant_id.drawn(points, 200, 160)
    for (x, y), colour in zip(points.astype(int), instant_id.COLOURS, strict=True):
        assert tuple(map_[y, x]) == colour
        assert tuple(map_[y, x - 10]) == colour
    for end in (0, 1, 3, 4):
        x, y = ((points[end] + points[2]) / 2).astype(int)
        assert tuple(map_[y, x]) == tuple(int(0.6 * c) for c in instant_id.COLOURS[end])
    assert not map_[:20].any()


def test_keypoints_follow_the_picture(networks: Networks) -> None:
    room = find("instant_id_face_keypoints")
    map_ = room.run(photograph((200, 80)), replace(room.ask(320), networks=networks))
    assert map_.shape == (320, 640, 3)
    x, y = (np.array([200, 80]) + 8 * POINTS[4]).astype(int)
    assert tuple(map_[y, x]) == instant_id.COLOURS[4]


@pytest.mark.parametrize("pack", [BUFFALO, ANTELOPE])
def test_absence_is_said_with_the_licence(tmp_path: Path, pack: Pack) -> None:
    rooms = [p for p in preprocess.everything() if pack.detector in p.files]
    rooms = [p for p in rooms if not any(map(packages.fault, p.packages))]  # those are told first
    assert rooms
    for room in rooms:
        said = preprocess.unavailable(room, Networks(Store([tmp_path])))
        assert said is not None
        assert "non-commercial" in str(said)
        assert str(tmp_path / pack.detector.folder) in str(said)
