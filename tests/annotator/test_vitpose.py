"""openpose_vitpose: real loading, random weights, against transformers' own processing of pictures."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import weights

from controlstack import pose
from controlstack.errors import ControlError
from controlstack.image import Array
from controlstack.networks import Networks
from controlstack.preprocess import Cache, find

transformers = pytest.importorskip("transformers")
pytest.importorskip("scipy")
if not hasattr(transformers, "VitPoseForPoseEstimation"):
    pytest.skip("this transformers has no ViTPose", allow_module_level=True)

ROOM = sys.modules[find("openpose_vitpose").pose.__module__]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """RT-DETR in the layout of transformers 4.57's RTDetrForObjectDetection of 80 classes, saved without the
    second names of shared tensors; ViTPose in that of VitPoseForPoseEstimation, with two layers of 128.
    """
    folder = tmp_path_factory.mktemp("vitpose")
    backbone = transformers.VitPoseBackboneConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, out_indices=[2]
    )
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17)
    weights.published(folder, ROOM.VITPOSE, weights.like(transformers.VitPoseForPoseEstimation(config)))
    state = weights.like(weights.listed("rtdetr.txt"), seed=1)
    state["model.decoder.class_embed.5.bias"][0] -= 2.692  # so that few of the 300 queries are people
    return weights.published(folder, ROOM.DETECTOR, state)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    """The detector takes any multiple of 32 px with cells for its 300 queries."""
    monkeypatch.setattr(ROOM, "SIDE", 128)


def _processor(*names: str) -> Any:
    """Without torchvision where there is such a one."""
    return next(getattr(transformers, name) for name in names if hasattr(transformers, name))


@pytest.mark.parametrize("prefix", ["model.decoder.", ""])
def test_every_weight_of_the_detector_is_loaded(networks: Networks, tmp_path: Path, prefix: str):
    """Names of today's class differ from those of the file; the tensors are the same. The heads, which the
    class has under two names, may stand under either.
    """
    stored = torch.load(networks.store.get(ROOM.DETECTOR), weights_only=True)
    renamed = {
        name.replace("model.decoder.", prefix) if "_embed." in name else name: tensor
        for name, tensor in stored.items()
    }
    found = weights.published(tmp_path, ROOM.DETECTOR, renamed).get(ROOM.DETECTOR, ROOM._detector)
    loaded = {tensor.data_ptr(): tensor for tensor in found.state_dict().values()}
    fingerprints = [
        sorted((*tensor.shape, float(tensor.double().sum())) for tensor in tensors if tensor.dim())
        for tensors in (loaded.values(), stored.values())
    ]
    assert fingerprints[0] == fingerprints[1]


def test_boxes_are_those_of_transformers(networks: Networks, astronaut: Array):
    picture = np.ascontiguousarray(astronaut[:192, :256])
    network = networks.get(ROOM.DETECTOR, ROOM._detector)
    found = ROOM._boxes(picture, network)
    seen = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_LINEAR) / 255
    with torch.no_grad():
        outputs = network(torch.from_numpy(seen).float().permute(2, 0, 1)[None])
    outputs.logits = outputs.logits[..., :1]  # of people alone: it keeps the 300 surest of all classes
    processor = _processor("RTDetrImageProcessorPil", "RTDetrImageProcessor")()
    (expected,) = processor.post_process_object_detection(outputs, 0.3, [(192, 256)])
    assert 1 < len(found) < 100
    assert np.allclose(found, expected["boxes"].numpy(), atol=1e-3)


def test_what_the_second_network_sees(astronaut: Array):
    """The same crop as transformers', which SciPy resamples, within a level and a half of 255."""
    processor = _processor("VitPoseImageProcessorPil", "VitPoseImageProcessor")()
    for left, top, right, bottom in ((100.0, 40.0, 330.0, 500.0), (20.0, 100.0, 480.0, 300.0)):
        expected = processor(
            astronaut, boxes=[[[left, top, right - left, bottom - top]]], return_tensors="np"
        )
        seen, _, _ = ROOM._framed(astronaut, np.array((left, top, right, bottom)))
        difference = np.abs(seen.transpose(2, 0, 1) - expected["pixel_values"][0]) * 0.229 * 255
        assert np.median(difference) < 1.5
        assert np.quantile(difference, 0.99) < 6  # cv2 interpolates in 32 steps


def test_points_are_those_of_transformers(networks: Networks, astronaut: Array):
    """From the same heatmaps: the network called directly, decoded by transformers."""
    network = networks.get(ROOM.VITPOSE, ROOM._vitpose)
    box = np.array((100.0, 40.0, 330.0, 500.0))
    seen, scale, shift = ROOM._framed(astronaut, box)
    with torch.no_grad():
        outputs = network(ROOM._tensor(seen[None], network))
    outputs.heatmaps = outputs.heatmaps.abs() + torch.from_numpy(_hills(outputs.heatmaps.shape[1:]))
    processor = _processor("VitPoseImageProcessorPil", "VitPoseImageProcessor")()
    sizes = [[[box[0], box[1], box[2] - box[0], box[3] - box[1]]]]
    ((expected,),) = processor.post_process_pose_estimation(outputs, boxes=sizes)
    heat = outputs.heatmaps[0].double().numpy()
    spots = (ROOM._peaks(heat) * ((192 - 1) / (48 - 1), (256 - 1) / (64 - 1)) - shift) / scale
    assert np.allclose(spots, expected["keypoints"].numpy(), atol=0.02)
    assert np.allclose(heat.max(axis=(1, 2)), expected["scores"].numpy().ravel(), atol=1e-6)


def _hills(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One hill in each map, at a place between its cells, higher than what random weights give."""
    count, height, width = shape
    random = np.random.default_rng(3)
    places = random.uniform((2, 2), (width - 3, height - 3), (count, 2))
    y, x = np.mgrid[:height, :width]
    hills = [40 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8) for a, b in places]
    return np.array(hills, np.float32)[None]


def test_a_peak_between_cells():
    """Of a Gaussian hill the logarithm is a parabola, so that one step finds its top."""
    heat = np.array([np.exp(-((np.arange(48) - 20.3) ** 2 + (np.arange(64)[:, None] - 31.4) ** 2) / 8)])
    assert np.allclose(ROOM._peaks(heat), [(20.3, 31.4)], atol=0.02)


def test_what_is_drawn(networks: Networks, chelsea: Array):
    preprocessor = find("openpose_vitpose")
    cache = Cache(networks=networks)
    for picture, size in ((chelsea[:61, :91], (64, 95)), (chelsea[:1, :1], (64, 64))):
        ask = preprocessor.ask(64)
        found = cache.pose(preprocessor, picture, ask)
        map_ = cache.run(preprocessor, picture, ask)
        assert map_.shape == (*size, 3)
        assert np.array_equal(map_, pose.draw(pose.parse(pose.write(found))))
        assert np.array_equal(preprocessor.run(picture, replace(ask, networks=networks)), map_)
    assert {len(person.body) for person in found.people} == {18}


def test_another_networks_weights_are_refused(networks: Networks, tmp_path: Path):
    state = weights.like(weights.listed("rtdetr.txt"))
    state["model.unknown.weight"] = state.pop("model.denoising_class_embed.weight")
    other = weights.published(tmp_path, ROOM.DETECTOR, state)
    with pytest.raises(ControlError, match="weights of another network"):
        other.get(ROOM.DETECTOR, ROOM._detector)
