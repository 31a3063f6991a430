"""Hands as meshes, and their depth: the authors' classes, and triangles whose distance is known."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import weights
from scipy.sparse import csc_matrix

from controlstack.errors import ControlError
from controlstack.hand_mesh import Mesh
from controlstack.image import Array
from controlstack.networks import Networks, State, imagenet
from controlstack.preprocess import find, unavailable

FINGERS = [[2**32 - 1, *(joint if joint % 3 else 0 for joint in range(15))], list(range(16))]
"""Above each of MANO's 16 joints, and themselves."""


def mesh_files(folder: Path) -> None:
    """MANO's and Mesh Graphormer's data about a hand, with random numbers the size of a hand's."""
    draw = np.random.default_rng(3)

    def few(rows: int, columns: int) -> csc_matrix:
        return csc_matrix(np.where(draw.random((rows, columns)) < 0.02, draw.random((rows, columns)), 0))

    shares = draw.random((778, 16)) ** 8
    mano = {
        "v_template": draw.normal(0, 0.03, (778, 3)),
        "posedirs": draw.normal(0, 1e-4, (778, 3, 135)),
        "hands_mean": draw.normal(0, 0.3, 45),
        "weights": shares / shares.sum(axis=1, keepdims=True),
        "J_regressor": few(16, 778),
        "kintree_table": np.array(FINGERS, np.int64),
        "f": np.stack([draw.permutation(778)[:3] for _ in range(1538)]).astype(np.uint32),
    }
    (folder / "MANO_RIGHT.pkl").write_bytes(pickle.dumps(mano))
    touching = few(195, 195)
    levels = {"A": [few(778, 778), touching + touching.T], "D": [few(195, 778)]}
    as_objects = {name: np.array([*matrices, None], object)[:-1] for name, matrices in levels.items()}
    np.savez(folder / "mano_downsampling.npz", **as_objects)


def published(backbone: State) -> State:
    """Random weights, scaled where what they make would be far from trained ones: a hand has a hand's size.

    Layout: Graphormer_Hand_Network of microsoft/MeshGraphormer in huchenlei/HandRefinerPortable at f5553f8,
    but for the embeddings of words that it computes nothing with; its backbone has the names of timm's HRNet.
    """
    layout = weights.listed("graphormer_hand.txt")
    state = weights.like({**layout, **{f"backbone.{name}": tensor for name, tensor in backbone.items()}}, 5)
    damped = {
        "backbone.final_layer.1": 1e-5,
        "grid_feat_dim": 1e-5,
        "upsampling": 0.01,
        "cam_param_fc3": 0.01,
    }
    for part, factor in damped.items():
        for kind in ("weight", "bias"):
            state[f"{part}.{kind}"] = state[f"{part}.{kind}"] * factor
    state["cam_param_fc3.bias"] = state["cam_param_fc3.bias"] + torch.tensor([5.0, 0, 0])
    start = state["trans_encoder.0.residual.weight"].clone()
    start[:, :3] *= 3000
    state["trans_encoder.0.residual.weight"] = start
    return state


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    timm = pytest.importorskip("timm.models.hrnet", exc_type=ImportError)
    with torch.device("meta"):
        shapes = timm.hrnet_w64(pretrained=False).state_dict()
    backbone = {name: torch.empty_like(tensor, device="cpu") for name, tensor in shapes.items()}
    file = find("depth_hand_refiner").files[0]
    return weights.published(tmp_path_factory.mktemp("hands"), file, published(backbone))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the package that people install has its data."""
    folder = tmp_path / "mesh_graphormer" / "modeling" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "mesh_graphormer" / "__init__.py").touch()
    mesh_files(folder)
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    return folder


def test_a_hand_at_rest_is_the_authors(data: Path):
    """Some joints and vertices that the ManoLayer and Mesh of the same repository make of these files."""
    expected = [
        [-0.01321962, -0.15969586, 0.07435616],
        [-0.01821650, -0.06152388, 0.09705837],
        [-0.05394737, -0.16266015, 0.08996501],
        [-0.01889320, -0.19325164, 0.17378849],
        [0.01016479, -0.11712252, 0.19302550],
    ]
    mesh = Mesh.read(data)
    assert mesh.start.shape == (216, 3)
    assert torch.allclose(mesh.start[[1, 8, 20, 30, 215]], torch.tensor(expected), atol=1e-6)
    assert not mesh.start[0].any(), "the wrist"


def test_a_package_without_its_data_is_told(data: Path):
    (data / "MANO_RIGHT.pkl").unlink()
    with pytest.raises(ControlError, match=r"MANO_RIGHT\.pkl, is not here"):
        Mesh.read(data)


def test_the_network_is_the_authors(networks: Networks, data: Path, astronaut: Array):
    """What Graphormer_Hand_Network of the same repository finds in two pictures with these files."""
    file = find("depth_hand_refiner").files[0]
    network = networks.get(file, lambda state: _room().hand_mesh.network(state, Mesh.read(data)))
    with torch.no_grad():
        camera, vertices = network(imagenet(astronaut[:224, 100:324], network))
        other, others = network(imagenet(astronaut[224:448, 100:324], network))
    assert torch.allclose(camera, torch.tensor([5.00161695, -0.01015798, 0.05353907]), atol=2e-6)
    assert torch.allclose(other, torch.tensor([4.99853230, -0.00964670, 0.06133102]), atol=2e-6)
    expected = [
        [-0.00168727, 0.00488929, 0.00166304],
        [0.01801888, -0.03380739, 0.00786452],
        [-0.02596759, 0.01415766, -0.03778951],
        [-0.06480236, 0.03929724, -0.12601219],
    ]
    assert torch.allclose(vertices[[0, 100, 500, 777]], torch.tensor(expected), atol=2e-6)
    assert (vertices - others).abs().max() > 1e-3, "the picture counts"


def _room() -> Any:
    return import_module(find("depth_hand_refiner").run.__module__)


def test_a_left_hand_is_a_right_one_mirrored(networks: Networks, data: Path, astronaut: Array):
    """Drawn from 50 at its farthest to 255; also where its square reaches past the picture's edge."""
    room, width = _room(), astronaut.shape[1]
    draw: Callable[..., Array] = torch.no_grad()(room.drawn)
    right, near = room.Hand(20, 300, 150, is_left=False), room.Hand(-60, -40, 200, is_left=False)
    both = draw(astronaut, [right, near], networks)
    assert both[:160, :140].any()
    drawn = both[..., 0][300:450, 20:170]
    assert (drawn[drawn > 0].min(), drawn.max()) == (50, 255)
    assert not both[:, 200:].any()
    mirrored = [replace(hand, left=width - hand.left - hand.side, is_left=True) for hand in (right, near)]
    assert np.array_equal(draw(np.ascontiguousarray(astronaut[:, ::-1]), mirrored, networks), both[:, ::-1])


def test_triangles_are_as_far_as_planes_are():
    """A ray p = t (x, y, 1) meets the plane n·p = n·a at t = n·a / n·(x, y, 1).

    The tilted one hides what is behind it; the other way round, what it shows is its inside: nothing.
    """
    side, room = 64, _room()
    tilted = np.array([[-0.2, -0.2, 2.0], [0.1, 0.2, 3.0], [0.2, -0.1, 2.5]])
    behind = tilted + np.array([0.1, 0.1, 1])
    x, y = np.meshgrid(*[(np.arange(side) + 0.5 - side / 2) / (room.FOCAL * side)] * 2)
    rays = np.dstack([x, y, np.ones_like(x)])

    def planes(corners: Array) -> tuple[Array, Array]:
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        away = (normal @ corners[0]) / (rays @ normal)
        spots = rays * away[..., None]
        turns = [np.cross(corners[i] - corners[i - 1], spots - corners[i - 1]) @ normal for i in range(3)]
        return away, np.min(turns, axis=0) >= 0

    (near, covers), (far, reaches) = planes(tilted), planes(behind)
    expected = np.where(covers, near, np.where(reaches, far, np.inf))
    assert covers.sum() > 100
    assert (reaches & ~covers).sum() > 100
    found = room._distances(np.stack([tilted, behind]), side)
    assert np.allclose(found, expected)
    turned = room._distances(np.stack([tilted[::-1], behind]), side)
    assert np.allclose(turned, np.where(reaches & ~covers, far, np.inf))
    assert np.isinf(room._distances(np.stack([tilted, behind]) - (0, 0, 9), side)).all(), "behind the camera"


def test_who_lacks_the_package_is_told_which():
    error = unavailable(find("depth_hand_refiner"), Networks())
    assert error is not None
    assert "mesh_graphormer is not installed" in str(error)
    assert "--no-deps https://github.com/huchenlei/HandRefinerPortable/releases/" in str(error)
