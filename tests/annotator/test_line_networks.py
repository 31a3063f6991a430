"""lineart, its relatives and mlsd: real loading, random weights, against controlnet_aux and a golden map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import weights

from controlstack.image import Array
from controlstack.networks import Networks
from controlstack.preprocess import find


@pytest.fixture(scope="module")
def picture(astronaut: Array) -> Array:
    return cv2.resize(astronaut, (128, 64), interpolation=cv2.INTER_AREA)


def _run(name: str, picture: Array, networks: Networks, **numbers: float) -> Array:
    preprocessor = find(name)
    ask = replace(preprocessor.ask(min(picture.shape[:2]), **numbers), networks=networks)
    return preprocessor.run(picture, ask)


def test_lineart(tmp_path: Path, picture: Array):
    """Layout: Generator(3, 1, 3) of controlnet_aux 0.0.10, in two files, as bare state dicts."""
    aux = pytest.importorskip("controlnet_aux", exc_type=ImportError)
    torch.manual_seed(1)
    networks = []
    for name in ("lineart", "lineart_coarse"):
        network = aux.lineart.Generator(3, 1, 3)
        networks.append(network.eval())
        shelf = weights.published(tmp_path, find(name).files[0], network.state_dict())
    detector = aux.LineartDetector(*networks)
    fine, coarse = (detector(picture, coarse, 64, 64, output_type="np") for coarse in (False, True))
    assert np.array_equal(_run("lineart", picture, shelf), fine)
    assert np.array_equal(_run("lineart_coarse", picture, shelf), coarse)
    assert not np.array_equal(fine, coarse)


def test_lineart_anime(tmp_path: Path, picture: Array):
    """Layout: UnetGenerator of controlnet_aux 0.0.10; the file's names begin with "module."."""
    aux = pytest.importorskip("controlnet_aux", exc_type=ImportError)
    from functools import partial

    norm = partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    network = aux.lineart_anime.UnetGenerator(3, 1, 8, 64, norm_layer=norm)
    state = weights.like(network, 2)
    network.load_state_dict(state)
    published = {f"module.{name}": tensor for name, tensor in state.items()}
    shelf = weights.published(tmp_path, find("lineart_anime").files[0], published)
    theirs = aux.LineartAnimeDetector(network.eval())(picture, 64, 64, output_type="np")
    ours = _run("lineart_anime", picture, shelf)
    assert np.array_equal(ours, theirs)
    assert len(np.unique(ours)) > 1


@pytest.fixture
def manga_lines(tmp_path: Path) -> Networks:
    """Layout: res_skip of ljsabc/MangaLineExtraction_PyTorch at 738ffab, the network of erika.pth."""
    state = weights.like(weights.listed("manga_line.txt"), 4)
    state["conv15.model.2.weight"] = state["conv15.model.2.weight"] / 200  # so that the drawing is in 0..255
    state["conv15.model.2.bias"] = torch.tensor([260.0])
    return weights.published(tmp_path, find("lineart_anime_denoise").files[0], state)


def test_lineart_anime_denoise(manga_lines: Networks, picture: Array):
    """Every 16th pixel of what res_skip, named above, makes of these weights and 255 minus its drawing."""
    expected = [
        [92, 103, 145, 114, 142, 104, 103, 43],
        [174, 255, 255, 255, 255, 255, 212, 102],
        [168, 255, 255, 255, 255, 255, 226, 116],
        [112, 171, 246, 236, 255, 206, 174, 77],
    ]
    ours = _run("lineart_anime_denoise", picture, manga_lines)
    assert np.abs(ours[4::16, 8::16].astype(int) - np.array(expected)[..., None]).max() <= 1


@pytest.mark.parametrize(("a", "b"), [(0.01, 0.01), (0.5, 0.1), (0.9, 20), (2, 20)])
def test_mlsd(a: float, b: float, tmp_path: Path, picture: Array):
    """Layout: MobileV2_MLSD_Large of controlnet_aux 0.0.10, as a bare state dict.

    The value of the last threshold is beyond all: no segment, where the detector fails and draws nothing.
    """
    aux = pytest.importorskip("controlnet_aux", exc_type=ImportError)
    network = aux.mlsd.MobileV2_MLSD_Large()
    state = weights.like(network, 3)
    state["block23.conv3.weight"] = 100 * state["block23.conv3.weight"]  # likelihoods from 0 to 1
    network.load_state_dict(state)
    shelf = weights.published(tmp_path, find("mlsd").files[0], state)
    theirs = aux.MLSDdetector(network.eval())(picture, a, b, 64, 64, output_type="np")
    ours = _run("mlsd", picture, shelf, a=a, b=b)
    assert np.array_equal(ours, theirs)
    assert ours.any() == (a < 2)
