"""densepose and densepose_parula: a TorchScript file of the published inputs and outputs, small inside.

densepose_r50_fpn_dl.torchscript takes a picture "3 H W" in levels and gives boxes "N 4" in px, whether there
is a body "N 2 112 112", which part it is "N 25 112 112", and two coordinates on each, "N 25 112 112".
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import weights
from torch import Tensor, nn

from controlstack.errors import ControlError
from controlstack.image import Array
from controlstack.networks import Networks
from controlstack.preprocess import Cache, find

pytest.importorskip("torchvision")
ROOM = sys.modules[find("densepose").run.__module__]
MAPS = {"densepose": cv2.COLORMAP_VIRIDIS, "densepose_parula": cv2.COLORMAP_PARULA}


class Parts(nn.Module):
    """One body in the middle half of the picture, with part 6 above and part 24 below; beside it a strip."""

    def __init__(self) -> None:
        super().__init__()
        coarse, fine = torch.zeros(2, 2, 112, 112), torch.zeros(2, 25, 112, 112)
        coarse[:, 1] = 1
        coarse[0, 1, :, :28] = -1
        fine[0, 6, :56] = 1
        fine[0, 24, 56:] = 1
        fine[1, 3] = 1
        self.coarse, self.fine = nn.Parameter(coarse), nn.Parameter(fine)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        h, w = picture.shape[1], picture.shape[2]
        boxes = torch.tensor([[w / 4, h / 4, 3 * w / 4, 3 * h / 4], [0.0, 0.0, w / 8 + 0.9, float(h)]])
        found = 2 if picture.float().mean() > 10 else 0
        u = self.fine[:found] * 0
        return boxes[:found], self.coarse[:found], self.fine[:found], u, u


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    folder = tmp_path_factory.mktemp("downloads")
    return weights.offered(folder, ROOM.WEIGHTS, lambda path: torch.jit.script(Parts()).save(str(path)))


def _colour(part: int, colours: int) -> list[int]:
    """OpenCV's colour map at part·255/24, as RGB."""
    level = np.full((1, 1), part * 255 // 24, np.uint8)
    return cv2.applyColorMap(level, colours)[0, 0, ::-1].tolist()


@pytest.mark.parametrize(("name", "ground"), [("densepose", [68, 1, 84]), ("densepose_parula", [0, 0, 0])])
def test_parts_have_their_colours(networks: Networks, astronaut: Array, name: str, ground: list[int]):
    preprocessor = find(name)
    map_ = Cache(networks=networks).run(preprocessor, astronaut, preprocessor.ask(256))
    assert map_.shape == (256, 256, 3)
    expected = np.full((256, 256, 3), ground)
    expected[64:128, 96:192] = _colour(6, MAPS[name])  # of the box's 128 px the left 32 are no body
    expected[128:192, 96:192] = _colour(24, MAPS[name])
    expected[:, :32] = _colour(3, MAPS[name])
    assert np.array_equal(map_, expected)


def test_it_is_the_network_called_directly(networks: Networks, astronaut: Array):
    network = networks.open(ROOM.WEIGHTS, ROOM._network)
    seen = torch.tensor(astronaut).permute(2, 0, 1)
    with torch.no_grad():
        for ours, theirs in zip(network(seen), Parts()(seen), strict=True):
            assert torch.equal(ours, theirs)


def test_labels_in_a_box_of_another_size():
    """Scores are interpolated and then compared; in a quarter of the size a border lies where it lay."""
    random = torch.Generator().manual_seed(0)
    body, parts = (torch.rand(count, 112, 112, generator=random) for count in (2, 25))
    small = ROOM._labels(body, parts, 30, 50)
    sizes = {"size": (50, 30), "mode": "bilinear", "align_corners": False}
    expected = torch.nn.functional.interpolate(parts[None], **sizes)[0].numpy().argmax(axis=0)
    seen = torch.nn.functional.interpolate(body[None], **sizes)[0].numpy()
    assert np.array_equal(small, np.where(seen[1] > seen[0], expected, 0))


def test_nobody_is_the_ground_alone(networks: Networks):
    for name, ground in (("densepose", [68, 1, 84]), ("densepose_parula", [0, 0, 0])):
        ask = replace(find(name).ask(64), networks=networks)
        map_ = find(name).run(np.zeros((61, 91, 3), np.uint8), ask)
        assert map_.shape == (64, 95, 3)
        assert (map_ == ground).all()


@pytest.mark.parametrize(("h", "w"), [(61, 91), (451, 300), (1, 1)])
def test_any_size(networks: Networks, h: int, w: int):
    picture = np.full((h, w, 3), 90, np.uint8)
    ask = replace(find("densepose").ask(64), networks=networks)
    map_ = find("densepose").run(picture, ask)
    assert map_.shape == (round(h * 64 / min(h, w)), round(w * 64 / min(h, w)), 3)
    assert len(np.unique(map_.reshape(-1, 3), axis=0)) > 1


def test_another_file_is_refused(tmp_path: Path):
    networks = weights.offered(tmp_path, ROOM.WEIGHTS, lambda path: path.write_bytes(b"no network at all"))
    with pytest.raises(ControlError, match="holds weights of another network"):
        Cache(networks=networks).run(
            find("densepose"), np.zeros((64, 64, 3), np.uint8), find("densepose").ask(64)
        )
