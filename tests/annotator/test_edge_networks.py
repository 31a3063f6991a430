"""hed, pidinet, teed and their relatives: real loading, random weights, against controlnet_aux's detectors.

The pictures have sides of multiples of 64 px, at which the detectors of controlnet_aux resize nothing; how
rooms fit other sizes is tested for all of them in test_every_neural_preprocessor.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import weights
from hub import Hub, serving
from skimage import measure

from controlstack.downloads import Store
from controlstack.errors import ControlError
from controlstack.image import Array
from controlstack.networks import Networks
from controlstack.preprocess import Cache, find

aux = pytest.importorskip("controlnet_aux", exc_type=ImportError)


@pytest.fixture(scope="module")
def picture(astronaut: Array) -> Array:
    return cv2.resize(astronaut, (128, 64), interpolation=cv2.INTER_AREA)


def _run(name: str, picture: Array, networks: Networks, **numbers: float) -> Array:
    preprocessor = find(name)
    ask = replace(preprocessor.ask(min(picture.shape[:2]), **numbers), networks=networks)
    return preprocessor.run(picture, ask)


@pytest.fixture(scope="module")
def hed(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, Networks]:
    """Layout: ControlNetHED_Apache2 of controlnet_aux 0.0.10; the published file is in float16."""
    torch.manual_seed(1)
    network = aux.hed.ControlNetHED_Apache2().half().float()
    half = {name: tensor.half() for name, tensor in network.state_dict().items()}
    folder = tmp_path_factory.mktemp("hed")
    return aux.HEDdetector(network.eval()), weights.published(folder, find("hed").files[0], half)


def test_hed(hed: tuple[aux.HEDdetector, Networks], picture: Array):
    detector, networks = hed
    for name, options in (("hed", {}), ("hed_safe", {"safe": True}), ("scribble_hed", {"scribble": True})):
        theirs = detector(picture, 64, 64, output_type="np", **options)
        ours = _run(name, picture, networks)
        assert np.array_equal(ours, theirs), name
        assert len(np.unique(ours)) > 1


@pytest.fixture(scope="module")
def pidinet(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, Networks]:
    """Layout: pidinet() of controlnet_aux 0.0.10; in the file it is {"state_dict": {"module...."}}."""
    torch.manual_seed(2)
    network = aux.pidi.pidinet()
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    folder, file = tmp_path_factory.mktemp("pidinet"), find("pidinet").files[0]
    networks = weights.published(folder, file, state, lambda inner: {"epoch": 19, "state_dict": inner})
    return aux.PidiNetDetector(network.eval()), networks


def test_pidinet(pidinet: tuple[aux.PidiNetDetector, Networks], picture: Array):
    """The scribbles of controlnet_aux start from edges, as ours; sketch is its `apply_filter`."""
    detector, networks = pidinet
    for name, options in (
        ("pidinet", {}),
        ("pidinet_safe", {"safe": True}),
        ("pidinet_sketch", {"apply_filter": True}),
        ("pidinet_scribble", {"scribble": True}),
    ):
        theirs = detector(picture, 64, 64, output_type="np", **options)
        ours = _run(name, picture, networks)
        assert np.array_equal(ours, theirs), name


@pytest.fixture(scope="module")
def teed(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, Networks]:
    """Layout: TED of controlnet_aux 0.0.10, of which both published files are bare state dicts."""
    torch.manual_seed(3)
    network = aux.teed.TED()
    folder = tmp_path_factory.mktemp("teed")
    for name in ("softedge_teed", "softedge_anyline"):
        networks = weights.published(folder, find(name).files[0], network.state_dict())
    return aux.TEEDdetector(network.eval()), networks


@pytest.mark.parametrize("steps", [0, 1, 2, 10])
def test_teed(steps: int, teed: tuple[aux.TEEDdetector, Networks], picture: Array):
    detector, networks = teed
    theirs = detector(picture, 64, safe_steps=steps, output_type="np")
    assert np.array_equal(_run("softedge_teed", picture, networks, a=steps), theirs)


def test_weights_come_from_the_hub_when_they_are_not_here(
    teed: tuple[aux.TEEDdetector, Networks],
    picture: Array,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """From nothing to a map: download, verification, network; what is published is made of these weights."""
    detector, placed = teed
    content = placed.store.get(find("softedge_teed").files[0]).read_bytes()
    room = sys.modules[find("softedge_teed").run.__module__]
    published = replace(room.TEED, sha256=sha256(content).hexdigest(), size=len(content))
    monkeypatch.setattr(room, "TEED", published)
    networks = Networks(Store([tmp_path]), "cpu")
    preprocessor = find("softedge_teed")
    with serving(Hub({f"{published.repository}/resolve/main/{published.path}": content})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        first = Cache(networks=networks).run(preprocessor, picture, preprocessor.ask(64))
        again = Cache(networks=networks).run(preprocessor, picture, preprocessor.ask(64))
    assert np.array_equal(first, detector(picture, 64, safe_steps=2, output_type="np"))
    assert np.array_equal(first, again)
    assert hub.bodies() == [None]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "TEED" / "7_model.pth"]


def test_anyline(teed: tuple[aux.TEEDdetector, Networks], picture: Array):
    """The incumbent's arithmetic, spelled out, with scikit-image's pieces, of which small ones go."""
    detector, networks = teed
    picture = picture.copy()
    picture[:, 64:], picture[:, 96:] = 100, 101  # a step so small that line art has it at level 1
    edges = detector(picture, 64, safe_steps=2, output_type="np")
    lines = _run("lineart_standard", picture, networks)
    kept = np.where(lines <= 1, lines, 0).astype(np.uint8)
    pieces = measure.label(kept.astype(bool), connectivity=1)
    kept = kept * (np.bincount(pieces.ravel())[pieces] > 35)
    joined = 1 - (1 - kept) * (1 - edges)
    expected = np.where(kept.astype(bool), joined, edges)
    assert kept.any()
    assert np.array_equal(_run("softedge_anyline", picture, networks, a=2), expected)


def test_anyline_starts_at_1280_px():
    assert find("softedge_anyline").ask().resolution == 1280


def test_networks_are_loaded_once_and_let_go(hed: tuple[aux.HEDdetector, Networks], picture: Array):
    networks = hed[1]
    calls: list[int] = []
    build = networks._load
    networks._load = lambda *given: calls.append(1) or build(*given)  # type: ignore[method-assign]
    networks.unload()
    _run("hed", picture, networks)
    _run("hed_safe", picture, networks)
    assert len(calls) == 1
    networks.unload()
    _run("hed", picture, networks)
    assert len(calls) == 2


def test_another_networks_weights_are_refused(tmp_path: Path, picture: Array):
    networks = weights.published(tmp_path, find("hed").files[0], aux.teed.TED().state_dict())
    with pytest.raises(ControlError, match="weights of another network") as caught:
        _run("hed", picture, networks)
    assert "ControlNetHED.pth" in str(caught.value)
