"""The demo's ControlNets: what their hints are, and what they learn on the locked base."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controlstack import pose
from controlstack.image import Array
from controlstack.train.demo import base
from controlstack.train.demo.dataset import Encoded, described
from controlstack.train.demo.scenes import CLASS_COLOURS, Scene
from controlstack.train.demo.solids import SIZE

HINT_CHANNELS = (16, 16, 32, 64)
"""Of the hint encoder: at full resolution a step pays for each of them."""
DROPPED = 0.5
"""Share of the prompts that are empty in training, so that the hint alone has to be enough."""

Hints = NDArray[np.uint8]
""" "n 128 128 3" """
Chosen = NDArray[np.int64]
"""Places in a dataset."""


def canny(scenes: Encoded, chosen: Chosen) -> Hints:
    return _grey(scenes.edges[chosen])


def depth(scenes: Encoded, chosen: Chosen) -> Hints:
    """Near is bright."""
    return _grey(scenes.depth[chosen])


def segmentation(scenes: Encoded, chosen: Chosen) -> Hints:
    return np.asarray(CLASS_COLOURS, np.uint8)[scenes.classes[chosen]]


def openpose(scenes: Encoded, chosen: Chosen) -> Hints:
    none = np.empty((0, 3))
    people = [[np.asarray(body, np.float64) for body in one if np.any(body)] for one in scenes.people[chosen]]
    poses = [pose.Pose(SIZE, SIZE, tuple(pose.Person(b, none, none, none) for b in one)) for one in people]
    return np.stack([pose.draw(one) for one in poses])


HINTS: dict[str, Callable[[Encoded, Chosen], Hints]] = {
    "canny": canny,
    "depth": depth,
    "segmentation": segmentation,
    "openpose": openpose,
}


def hint(kind: str, truth: Scene) -> Array:
    """What a kind of ControlNet reads of a scene, "128 128 3"."""
    found: Array = HINTS[kind](described([truth]), np.array([0]))[0]
    return found


class Loss:
    """Of a step: the error of v on the locked base, with hints and half of the prompts."""

    def __init__(
        self, kind: str, nets: tuple[Any, Any, Any], scenes: Encoded, tokens: Tensor, empty: Tensor
    ) -> None:
        self.net, self.unet, self.text_encoder = nets
        self.hints, self.scenes, self.tokens, self.empty = HINTS[kind], scenes, tokens, empty
        self.alphas = base.alphas()

    def __call__(self, step: int) -> Tensor:
        rng = np.random.default_rng(step)
        chosen = rng.integers(0, len(self.scenes), base.BATCH)
        latents = torch.from_numpy(self.scenes.latents[chosen].astype(np.float32))
        hints = torch.from_numpy(self.hints(self.scenes, chosen)).permute(0, 3, 1, 2).float() / 255
        dropped = torch.from_numpy(rng.random(base.BATCH) < DROPPED)
        tokens = torch.where(dropped[:, None], self.empty, self.tokens[torch.from_numpy(chosen)])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            context = self.text_encoder(tokens).last_hidden_state

        def predict(x: Tensor, timestep: Tensor) -> Tensor:
            skips, middle = self.net(x, timestep, context, hints, return_dict=False)
            found: Tensor = self.unet(
                *(x, timestep, context),
                down_block_additional_residuals=skips,
                mid_block_additional_residual=middle,
            ).sample
            return found

        return base.velocity_loss(self.alphas, latents, predict)


def _grey(planes: NDArray[np.uint8]) -> Hints:
    return np.repeat(planes[..., None], 3, -1)
