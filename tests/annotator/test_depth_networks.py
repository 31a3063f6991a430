"""depth and normals: real loading, random weights, against controlnet_aux's detectors and a golden map.

Boosting LeReS takes a minute: that runs where CONTROLSTACK_SLOW_TESTS is set.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import weights
from torch import Tensor, nn

from controlstack.downloads import Store
from controlstack.errors import ControlError
from controlstack.image import Array
from controlstack.networks import Networks
from controlstack.preprocess import Cache, find, unavailable

slow = pytest.mark.skipif("CONTROLSTACK_SLOW_TESTS" not in os.environ, reason="takes a minute")


@pytest.fixture(scope="module")
def aux() -> Any:
    return pytest.importorskip("controlnet_aux", exc_type=ImportError)


@pytest.fixture(scope="module")
def picture(astronaut: Array) -> Array:
    return cv2.resize(astronaut, (128, 64), interpolation=cv2.INTER_AREA)


def _run(name: str, picture: Array, networks: Networks, **numbers: float) -> Array:
    preprocessor = find(name)
    ask = replace(preprocessor.ask(min(picture.shape[:2]), **numbers), networks=networks)
    return preprocessor.run(picture, ask)


def _placed(folder: Path, name: str, network: nn.Module, wrap: Any = dict) -> Networks:
    """Random weights for a library's network and in the file of a preprocessor."""
    state = weights.like(network)
    nn.Module.load_state_dict(network, state)
    network.eval()
    return weights.published(folder, find(name).files[0], state, wrap)


def test_midas(aux: Any, tmp_path: Path, picture: Array):
    """Layout: DPTDepthModel, "vitb_rn50_384", of controlnet_aux 0.0.10, as a bare state dict."""
    network = aux.midas.MiDaSInference.__init__.__globals__["DPTDepthModel"](
        path=None, backbone="vitb_rn50_384", non_negative=True
    )
    with torch.no_grad():
        networks = _placed(tmp_path, "depth", network)
    detector = aux.MidasDetector(network)
    for threshold in (0.0, 0.4, 1.0):
        depth, normal = detector(
            picture, bg_th=threshold, depth_and_normal=True, detect_resolution=64, image_resolution=64
        )
        assert np.array_equal(_run("normal_map", picture, networks, a=threshold), normal)
    ours = _run("depth", picture, networks)
    assert np.array_equal(ours, depth)
    assert len(np.unique(ours)) > 50


def test_leres(aux: Any, tmp_path: Path, picture: Array):
    """Layout: RelDepthModel("resnext101") of controlnet_aux 0.0.10, as {"depth_model": {"module...."}}."""
    network = aux.leres.RelDepthModel(backbone="resnext101")

    def wrap(state: dict[str, Tensor]) -> dict[str, object]:
        return {"depth_model": {f"module.{name}": tensor for name, tensor in state.items()}, "step": 1}

    networks = _placed(tmp_path, "depth_leres", network, wrap)
    detector = aux.LeresDetector(network, None)
    for near, background in ((0, 0), (30, 0), (0, 45.5), (100, 100)):
        theirs = detector(picture, near, background, False, 64, 64, output_type="np")
        ours = _run("depth_leres", picture, networks, a=near, b=background)
        assert np.array_equal(ours, theirs), (near, background)
    small = _run("depth_leres++", picture, networks)
    assert np.array_equal(small, _run("depth_leres", picture, networks))


@pytest.fixture(scope="module")
def merger(aux: Any) -> nn.Module:
    """Layout: unet_1024 without norms of controlnet_aux 0.0.10, as a bare state dict."""
    pix2pix = aux.leres.pix2pix.models.networks
    network: nn.Module = pix2pix.UnetGenerator(2, 1, 10, norm_layer=pix2pix.get_norm_layer("none"))
    network.load_state_dict(weights.like(network, 1))
    return network.eval()


def _boosting_model(aux: Any, merger: nn.Module) -> Any:
    """controlnet_aux's own wrapper of the merging network, made without reading the command line."""
    model = aux.leres.Pix2Pix4DepthModel.__new__(aux.leres.Pix2Pix4DepthModel)
    model.netG, model.device, model.isTrain, model.visual_names = (
        merger,
        torch.device("cpu"),
        False,
        ["fake_B"],
    )
    return model


def test_leres_merges_as_its_authors_do(aux: Any, merger: nn.Module, tmp_path: Path, picture: Array):
    room = sys.modules[find("depth_leres++").run.__module__]
    networks = weights.published(tmp_path, room.MERGER, merger.state_dict())
    ours, theirs = room._Merging(networks.get(room.MERGER, room._merger)), _boosting_model(aux, merger)
    estimates = [cv2.resize(picture[..., i], (1024, 1024)).astype(np.float32) for i in (0, 2)]
    with torch.no_grad():
        for model in (ours, theirs):
            model.set_input(*estimates)
            model.test()
        merged = ours.get_current_visuals()["fake_B"]
    assert torch.equal(merged, theirs.get_current_visuals()["fake_B"])
    assert merged.std() > 0


@slow
def test_leres_boosted(aux: Any, merger: nn.Module, tmp_path: Path, astronaut: Array):
    network = aux.leres.RelDepthModel(backbone="resnext101")
    _placed(tmp_path, "depth_leres", network, lambda state: {"depth_model": state})
    networks = weights.published(tmp_path, find("depth_leres++").files[1], merger.state_dict())
    picture = cv2.resize(astronaut, (192, 64), interpolation=cv2.INTER_AREA)
    detector = aux.LeresDetector(network, _boosting_model(aux, merger))
    theirs = detector(picture, 10, 20, True, 64, 64, output_type="np")
    ours = _run("depth_leres++", picture, networks, a=10, b=20)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert len(np.unique(ours)) > 20


def test_the_merging_network_is_for_its_user_to_place(tmp_path: Path, picture: Array):
    networks = Networks(Store([tmp_path]), "cpu")
    with pytest.raises(ControlError, match="academic use only"):
        Cache(networks=networks).run(find("depth_leres++"), picture, find("depth_leres++").ask(64))


def test_zoe(aux: Any, tmp_path: Path, picture: Array):
    """Layout: ZoeDepth of controlnet_aux 0.0.10 as {"model": ...}, with the indices that timm 0.6 stored.

    Its 345 million parameters are all there; both networks read 64x128 px instead of 384x512, to save time.
    """
    network = aux.zoe.ZoeDepth.build_from_config(aux.zoe.get_config("zoedepth", "infer"))
    state = weights.like(network)
    state |= {name: buffer for name, buffer in network.named_buffers() if name in state}
    nn.Module.load_state_dict(network, state)
    index = "core.core.pretrained.model.blocks.0.attn.relative_position_index"
    published = state | {index: torch.zeros(577, 577, dtype=torch.int64)}
    file = find("depth_zoe").files[0]
    networks = weights.published(tmp_path, file, {"model": published})
    ours = networks.get(file, sys.modules[find("depth_zoe").run.__module__]._network)
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in state.items())
    for one in (network, ours):
        one.core.prep.resizer._Resize__width = one.core.prep.resizer._Resize__height = 64
    theirs = aux.ZoeDetector(network.eval())(picture, 64, 64, output_type="np")
    assert np.array_equal(_run("depth_zoe", picture, networks), theirs)
    assert len(np.unique(theirs)) > 50


def test_zoe_with_a_gap_is_refused(aux: Any, tmp_path: Path):
    """With timm 1.0 the network's own load_state_dict would take anything."""
    file = find("depth_zoe").files[0]
    networks = weights.published(tmp_path, file, {"model": {"conv2.bias": torch.zeros(256)}})
    with pytest.raises(ControlError, match="weights of another network"):
        networks.get(file, sys.modules[find("depth_zoe").run.__module__]._network)


def test_normal_bae(aux: Any, tmp_path: Path, picture: Array):
    """Layout: NNET of controlnet_aux 0.0.10, as {"model": {"module...."}}."""
    network = aux.normalbae.NNET(
        SimpleNamespace(
            mode="client", architecture="BN", pretrained="scannet", sampling_ratio=0.4, importance_ratio=0.7
        )
    )
    networks = _placed(
        tmp_path,
        "normal_bae",
        network,
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    )
    theirs = aux.NormalBaeDetector(network)(picture, 64, 64, output_type="np")
    ours = _run("normal_bae", picture, networks)
    assert np.array_equal(ours, theirs)
    assert len(np.unique(ours)) > 20


def _depth_anything() -> dict[str, Tensor]:
    """Layout: DepthAnythingV2 of DepthAnything/Depth-Anything-V2 at a561b84, with 8 blocks of width 64."""
    return weights.like(weights.listed("depth_anything.txt"), 5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "depth_anything_v2",
            [
                [23, 52, 56, 57, 70, 45, 106, 43],
                [63, 110, 110, 84, 106, 101, 97, 85],
                [64, 131, 119, 74, 88, 90, 65, 63],
                [106, 83, 129, 137, 96, 100, 96, 190],
            ],
        ),
        (
            "depth_anything",
            [
                [25, 83, 63, 43, 63, 69, 83, 33],
                [78, 118, 75, 39, 74, 111, 73, 49],
                [54, 119, 105, 62, 66, 85, 79, 53],
                [66, 101, 134, 128, 64, 73, 106, 183],
            ],
        ),
    ],
)
def test_depth_anything(name: str, expected: list[list[int]], tmp_path: Path, picture: Array):
    """Every 16th pixel of what the authors' class, named above, makes of these weights; its four features are
    of every second block, or of the last four for version 1."""
    networks = weights.published(tmp_path, find(name).files[0], _depth_anything())
    ours = _run(name, picture, networks)
    assert np.abs(ours[4::16, 8::16].astype(int) - np.array(expected)[..., None]).max() <= 1


def test_depth_anything_v2_takes_the_large_network_where_it_lies(tmp_path: Path, picture: Array):
    """Its file is safetensors or pickle; its licence keeps it from being downloaded, not from being used."""
    from safetensors.torch import save_file

    preprocessor, state = find("depth_anything_v2"), _depth_anything()
    large = preprocessor.instead[0]
    networks = weights.published(tmp_path / "small", preprocessor.files[0], state)
    small = _run(preprocessor.name, picture, networks)
    path = tmp_path / "large" / large.folder / large.name
    path.parent.mkdir(parents=True)
    save_file({name: tensor.contiguous() * 1.1 for name, tensor in state.items()}, path)
    networks = Networks(Store([tmp_path / "large"], offline=True), "cpu")
    assert unavailable(preprocessor, networks) is None
    assert not np.array_equal(_run(preprocessor.name, picture, networks), small)


def test_depth_pro(tmp_path: Path, picture: Array):
    """Layout: DepthProForDepthEstimation of transformers 4.57, DINOv2s of four layers, a field of view."""
    transformers = pytest.importorskip("transformers", "4.50")
    state = weights.like(weights.listed("depth_pro.txt"), 2)
    networks = weights.published(tmp_path, find("depth_pro").files[0], state)
    ours = _run("depth_pro", picture, networks)
    room = sys.modules[find("depth_pro").run.__module__]
    network = networks.get(room.WEIGHTS, room._network)
    assert isinstance(network, transformers.DepthProForDepthEstimation)
    stored = network.state_dict()["depth_pro.neck.fuse_image_with_low_res.weight"]
    assert torch.equal(stored, state["depth_pro.neck.fuse_image_with_low_res.weight"])
    seen = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
    with torch.no_grad():
        inverse = network((torch.from_numpy(seen).permute(2, 0, 1)[None] - 0.5) / 0.5).predicted_depth[None]
    inverse = torch.nn.functional.interpolate(inverse, (64, 128), mode="bilinear")[0, 0]
    spread = (inverse - inverse.min()) / (inverse.max() - inverse.min())
    assert np.abs(ours[..., 0] - 255 * spread.numpy()).max() <= 1
    assert len(np.unique(ours)) > 50


def test_depth_anything_v3(tmp_path: Path, picture: Array):
    """Layout: DepthAnything3 of ByteDance-Seed/Depth-Anything-3 at 2c21ea8, "da3mono-large" with 8 blocks of
    width 64. Every 16th pixel of what its network makes of these weights, as nearness between percentiles 2
    and 98; a two-hundredth of it is sky."""
    state = weights.like(weights.listed("depth_anything_v3.txt"), 5)
    ours = _run(
        "depth_anything_v3", picture, weights.published(tmp_path, find("depth_anything_v3").files[0], state)
    )
    expected = [
        [89, 105, 88, 78, 115, 61, 203, 84],
        [111, 61, 27, 96, 38, 60, 24, 68],
        [83, 124, 134, 31, 92, 56, 54, 30],
        [96, 122, 93, 93, 120, 20, 30, 114],
    ]
    assert np.abs(ours[4::16, 8::16].astype(int) - np.array(expected)[..., None]).max() <= 1


def test_sky_lies_as_far_as_the_farthest_hundredth():
    """Of distances 1..100 on earth; a picture that is all sky, or none of it, stays as it is."""
    room = sys.modules[find("depth_anything_v3").run.__module__]
    depth = np.arange(1, 201, dtype=np.float32).reshape(2, 100)
    sky = np.stack([np.zeros(100), np.full(100, 0.3)]).astype(np.float32)
    found = room._with_sky(depth, sky)
    assert np.array_equal(found[0], depth[0])
    assert np.allclose(found[1], np.quantile(depth[0], 0.99))
    assert np.array_equal(room._with_sky(depth, sky[:1].repeat(2, 0)), depth)
    assert np.array_equal(room._with_sky(depth, sky[1:].repeat(2, 0)), depth)


@pytest.fixture(scope="module")
def dsine(tmp_path_factory: pytest.TempPathFactory, controlnet_aux: object) -> Networks:
    """Layout: DSINE_v02 of baegwangbin/DSINE at ef0c2af with its published options, as {"model": ...}."""
    state = weights.like(weights.listed("dsine.txt"), 3)
    file = find("normal_dsine").files[0]
    return weights.published(tmp_path_factory.mktemp("dsine"), file, state, lambda state: {"model": state})


@pytest.mark.parametrize(
    ("fov", "rounds", "expected"),
    [
        (
            60,
            5,
            [
                [[141, 41, 220], [164, 41, 214], [191, 59, 214], [224, 68, 186], [249, 90, 137]],
                [[169, 132, 247], [191, 113, 236], [208, 88, 217], [241, 105, 180], [254, 124, 138]],
            ],
        ),
        (
            120,
            1,
            [
                [[130, 227, 206], [150, 206, 225], [144, 1, 114], [138, 7, 86], [145, 15, 69]],
                [[201, 215, 181], [226, 192, 174], [253, 111, 138], [236, 68, 99], [206, 45, 70]],
            ],
        ),
    ],
)
def test_normal_dsine(fov: float, rounds: int, expected: list[Any], dsine: Networks, astronaut: Array):
    """Some pixels of what the authors' class, named above, makes of these weights and a padded picture, whose
    camera points at the middle of what is not padding."""
    picture = cv2.resize(astronaut, (100, 70), interpolation=cv2.INTER_AREA)
    preprocessor = find("normal_dsine")
    ask = replace(preprocessor.ask(64, a=fov, b=rounds), networks=dsine)
    ours = preprocessor.run(picture, ask)
    assert ours.shape == (64, 91, 3)
    assert np.abs(ours[16::32, 10::20].astype(int) - np.array(expected)).max() <= 1


def test_the_widest_and_the_narrowest_camera_see_normals(dsine: Networks, astronaut: Array):
    """The slider goes to 360 degrees, which no camera spans; the map is that of 179."""
    picture = cv2.resize(astronaut, (64, 64), interpolation=cv2.INTER_AREA)
    preprocessor = find("normal_dsine")
    maps = {
        fov: preprocessor.run(picture, replace(preprocessor.ask(64, a=fov, b=1), networks=dsine))
        for fov in (0, 179, 360)
    }
    assert np.array_equal(maps[179], maps[360])
    lengths = {fov: np.linalg.norm(map_ / 127.5 - 1, axis=2) for fov, map_ in maps.items()}
    assert all(np.abs(length - 1).max() < 0.02 for length in lengths.values()), "unit vectors"
