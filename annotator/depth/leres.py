"""Depth by LeReS, near is bright, alone and sharpened by merging estimates at two scales (leres++).

Source: W. Yin and others, Learning to Recover 3D Scene Shape from a Single Image, 2021; S. M. H. Miangoleh
and others, Boosting Monocular Depth Estimation Models to High-Resolution, 2021. As for the maps that people
know, the network reads BGR in 0..255.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, below, filled, imagenet
from controlstack.packages import bring, controlnet_aux
from controlstack.preprocess import Ask, Preprocessor, Slider, at_resolution, register

LERES = File(
    repository="lllyasviel/Annotators",
    path="res101.pth",
    folder="leres",
    licence="as LeReS: see its repository, aim-uofa/AdelaiDepth",
    sha256="1d696b2ef3e8336b057d0c15bc82d2fecef821bfebe5ef9d7671a5ec5dde520b",
)
MERGER = File(
    repository="lllyasviel/Annotators",
    path="latest_net_G.pth",
    folder="leres",
    licence="academic use only",
    sha256="50ec735d74ed6499562d898f41b49343e521808b8dae589aa3c2f5c9ac9f7462",
    placed_by_user=True,
)
LEAST_TO_BOOST = 160
"""px of the longer side; three times that is the least that a second estimate could look at."""


@at_resolution
def leres(picture: Array, ask: Ask) -> Array:
    """Depth; `ask.a` and `ask.b` (0..100) turn the nearest and the farthest shares of its range black."""
    return hwc3(_shown(_estimate(picture, ask), ask))


@at_resolution
def leres_boosted(picture: Array, ask: Ask) -> Array:
    """The same with finer detail, in many times the time. Small pictures have none to add."""
    longer = max(picture.shape[:2])
    if longer < LEAST_TO_BOOST:
        return hwc3(_shown(_estimate(picture, ask), ask))
    bring("skimage")
    bring("torchvision")
    depthmap = controlnet_aux("leres.leres.depthmap")
    network, merger = ask.networks.get(LERES, _network), ask.networks.get(MERGER, _merger)
    with redirect_stdout(StringIO()):  # it prints every patch
        depth = depthmap.estimateboost(picture, network, 0, _Merging(merger), longer)
    return hwc3(_shown(depth, ask))


def _estimate(picture: Array, ask: Ask) -> NDArray[np.float32]:
    network = ask.networks.get(LERES, _network)
    # BGR in 0..255 with the mean and the spread of RGB in 0..1, which its published maps were made with
    depth: Tensor = network.get_submodule("depth_model")(imagenet(255.0 * picture[:, :, ::-1], network))
    return np.asarray(depth[0, 0].float().cpu().numpy())


def _shown(depth: NDArray[np.floating], ask: Ask) -> Array:
    """Distance "h w" in the network's units as nearness, 0..255."""
    span = depth.max() - depth.min()
    spread = 65535 * (depth - depth.min()) / span if span > np.finfo("float").eps else np.zeros(depth.shape)
    grey = cv2.convertScaleAbs(spread.astype(np.uint16), alpha=255.0 / 65535.0)
    if ask.a:
        grey = cv2.threshold(grey, ask.a / 100 * 255, 255, cv2.THRESH_TOZERO)[1]
    grey = cv2.bitwise_not(grey)
    if ask.b:
        grey = cv2.threshold(grey, ask.b / 100 * 255, 255, cv2.THRESH_TOZERO)[1]
    return np.asarray(grey, np.uint8)


def _network(state: State) -> nn.Module:
    model = controlnet_aux("leres.leres.multi_depth_model_woauxi").RelDepthModel
    return filled(model(backbone="resnext101"), below(state, "depth_model."))


def _merger(state: State) -> nn.Module:
    networks = controlnet_aux("leres.pix2pix.models.networks")
    return filled(networks.UnetGenerator(2, 1, 10, norm_layer=networks.get_norm_layer("none")), state)


class _Merging:
    """Two estimates "h w" become one, in the manner in which the boosting code asks for it."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def set_input(self, outer: NDArray[np.float32], inner: NDArray[np.float32]) -> None:
        """Take a coarse and a fine estimate, each spread over -1..1."""
        device = next(self._network.parameters()).device
        both = torch.stack([torch.from_numpy(estimate).float() for estimate in (outer, inner)]).to(device)
        least = both.amin((1, 2), keepdim=True)
        self._both = ((both - least) / (both.amax((1, 2), keepdim=True) - least) * 2 - 1)[None]

    def test(self) -> None:
        """Merge them."""
        self._merged: Tensor = self._network(self._both)

    def get_current_visuals(self) -> dict[str, Tensor]:
        """The result, -1..1, "1 1 h w"."""
        return {"fake_B": self._merged}


for name, run, files, packages in (
    ("depth_leres", leres, (LERES,), ("controlnet_aux",)),
    ("depth_leres++", leres_boosted, (LERES, MERGER), ("controlnet_aux", "skimage", "torchvision")),
):
    register(
        Preprocessor(
            name=name,
            run=run,
            label=name,
            control_types=("Depth",),
            a=Slider("Remove Near %", 0, 100, 0.1, 0),
            b=Slider("Remove Background %", 0, 100, 0.1, 0),
            network="LeReS, ResNeXt-101" + (" and a merging network" if len(files) > 1 else ""),
            files=files,
            packages=packages,
        )
    )
