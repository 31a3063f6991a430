"""Depth by Depth Anything 1, 2 and 3, near is bright, in whatever size of network the file holds.

Source: L. Yang and others, Depth Anything, and Depth Anything V2, both 2024; H. Lin and others, Depth
Anything 3: Recovering the Visual Space from Any Views, 2025, whose network for single pictures is that of
version 2 with another head. The published files have the names of the authors' code; the network is that of
transformers.
"""

from __future__ import annotations

import re
from functools import partial
from math import isqrt
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, below, filled, imagenet
from controlstack.packages import take
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register

LARGE = File(
    repository="LiheYoung/Depth-Anything",
    path="checkpoints/depth_anything_vitl14.pth",
    folder="depth_anything",
    licence="Apache-2.0",
    sha256="6c6a383e33e51c5fdfbf31e7ebcda943973a9e6a1cbef1564afe58d7f2e8fe63",
    size=1_341_401_882,
    space=True,
)
V2_SMALL = File(
    repository="depth-anything/Depth-Anything-V2-Small",
    path="depth_anything_v2_vits.pth",
    folder="depth_anything_v2",
    licence="Apache-2.0",
    sha256="715fade13be8f229f8a70cc02066f656f2423a59effd0579197bbf57860e1378",
    size=99_218_434,
)
V2_LARGE = (
    File(
        repository="MackinationsAi/Depth-Anything-V2_Safetensors",
        path="depth_anything_v2_vitl.safetensors",
        folder="depth_anything_v2",
        licence="CC-BY-NC-4.0, non-commercial",
        placed_by_user=True,
    ),
    File(
        repository="depth-anything/Depth-Anything-V2-Large",
        path="depth_anything_v2_vitl.pth",
        folder="depth_anything_v2",
        licence="CC-BY-NC-4.0, non-commercial",
        sha256="a7ea19fa0ed99244e67b624c72b8580b7e9553043245905be58796a608eb9345",
        placed_by_user=True,
    ),
)
V3_MONO = File(
    repository="depth-anything/DA3MONO-LARGE",
    path="model.safetensors",
    folder="depth_anything_v3",
    licence="Apache-2.0",
    saved_as="da3mono-large.safetensors",
)
SIDE, PATCH = 518, 14
"""px: the least side that the network reads, and what its sides are multiples of."""
SIDE_V3 = 504
"""px: the side that version 3 reads, of what `SIDE` is for the others."""
SKY = 0.3
"""From here on version 3 takes a pixel for sky."""
FOUR_BLOCKS = {24: (5, 12, 18, 24)}
"""The blocks whose features versions 2 and 3 use, by the number of all; elsewhere each quarter's last."""


def depth_anything(image: Array, ask: Ask) -> Array:
    """Depth by version 1."""
    return _depth(image, ask, ask.networks.get(LARGE, partial(_network, last_four=True)))


def depth_anything_v2(image: Array, ask: Ask) -> Array:
    """Depth by version 2: the small network, or the large one where its file lies."""
    large = (file for file in V2_LARGE if ask.networks.store.find(file))
    return _depth(image, ask, ask.networks.get(next(large, V2_SMALL), _network))


@at_resolution
def _depth(picture: Array, ask: Ask, network: nn.Module) -> Array:
    height, width = picture.shape[:2]
    scale = SIDE / min(height, width)
    read = [max(SIDE, round(side * scale / PATCH) * PATCH) for side in (width, height)]
    seen = imagenet(cv2.resize(picture.astype("float64"), read, interpolation=cv2.INTER_CUBIC), network)
    depth = network(seen).predicted_depth[None].float()
    depth = nn.functional.interpolate(depth, (height, width), mode="bilinear", align_corners=False)[0, 0]
    above = depth - depth.min()
    spread = above / above.max().clamp(min=torch.finfo(torch.float32).tiny) * 255
    return hwc3(spread.cpu().numpy().astype("uint8"))


@at_resolution
def depth_anything_v3(picture: Array, ask: Ask) -> Array:
    """Depth by version 3: what lies at the 2nd percentile of nearness is black, at the 98th white."""
    network = ask.networks.get(V3_MONO, _network_v3)
    height, width = picture.shape[:2]
    scale = SIDE_V3 / min(height, width)
    read = [max(SIDE_V3, round(side * scale / PATCH) * PATCH) for side in (width, height)]
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    found = network(imagenet(cv2.resize(picture, read, interpolation=method), network)).predicted_depth
    depth, sky = found[0].float().cpu().numpy()
    near = 1 / _with_sky(depth, sky)
    far, close = np.percentile(near, (2, 98))
    spread = ((near - far) / max(close - far, np.finfo(np.float32).tiny)).clip(0, 1)
    return hwc3((cv2.resize(spread, (width, height)) * 255).astype(np.uint8))


def _with_sky(depth: NDArray[np.float32], sky: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distances, where the sky is as far as the farthest hundredth of what is on earth."""
    earth = sky < SKY
    if not 10 < earth.sum() < earth.size - 10:
        return depth
    return np.where(earth, depth, np.quantile(depth[earth], 0.99)).astype(np.float32)


class _SkyHead(nn.Module):
    """Version 3's head, "B 2 H W": distances, and how much of each pixel is sky.

    theirs: that of transformers
    """

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = theirs.conv1, theirs.conv2, theirs.conv3
        reads, hidden = theirs.conv2.in_channels, theirs.conv2.out_channels
        self.sky = nn.Sequential(nn.Conv2d(reads, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 1, 1))

    def forward(self, features: list[Tensor], height: int, width: int) -> Tensor:
        """height, width: in patches"""
        size = height * PATCH, width * PATCH
        h = nn.functional.interpolate(self.conv1(features[-1]), size, mode="bilinear", align_corners=True)
        return torch.cat([self.conv3(self.conv2(h).relu()).exp(), self.sky(h).relu()], dim=1)


def _network_v3(state: State) -> nn.Module:
    """The network of version 3: the last norm's epsilon is torch's own, and what transformers never computes
    with is not in its file."""
    state = {
        re.sub(r"^head\.", "depth_head.", name.removeprefix("backbone.")): tensor
        for name, tensor in below(state, "model.").items()
    }
    state["pretrained.mask_token"] = torch.zeros(1, state["pretrained.pos_embed"].shape[-1])
    network = _empty(state)
    network.backbone.layernorm.eps = nn.LayerNorm(1).eps
    network.neck.fusion_stage.layers[0].residual_layer1 = nn.Identity()
    network.head = _SkyHead(network.head)
    return filled(network, _renamed(state, _attention(network)))


def _network(state: State, *, last_four: bool = False) -> nn.Module:
    """The network whose sizes the file tells. last_four: its head reads the last four blocks (version 1)."""
    network = _empty(state, last_four=last_four)
    return filled(network, _renamed(state, _attention(network)))


def _empty(state: State, *, last_four: bool = False) -> Any:
    """A network of these sizes, with weights of its own."""
    _, positions, width = state["pretrained.pos_embed"].shape
    blocks = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("pretrained.blocks."))
    quarters = FOUR_BLOCKS.get(blocks, tuple(blocks * quarter // 4 for quarter in (1, 2, 3, 4)))
    backbone = take("transformers", "Dinov2Config")(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=max(1, width // 64),
        image_size=isqrt(positions - 1) * PATCH,
        patch_size=PATCH,
        out_indices=list(range(blocks - 3, blocks + 1)) if last_four else list(quarters),
        reshape_hidden_states=False,
    )
    config = take("transformers", "DepthAnythingConfig")(
        backbone_config=backbone,
        patch_size=PATCH,
        reassemble_hidden_size=width,
        neck_hidden_sizes=[state[f"depth_head.projects.{i}.weight"].shape[0] for i in range(4)],
        fusion_hidden_size=state["depth_head.scratch.layer1_rn.weight"].shape[0],
    )
    return take("transformers", "DepthAnythingForDepthEstimation")(config)


def _attention(network: nn.Module) -> tuple[str, ...]:
    """What its transformers calls the parts of attention."""
    old = "backbone.encoder.layer.0.attention.attention.query.weight" in network.state_dict()
    return _OLD_ATTENTION if old else _ATTENTION


_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_OLD_ATTENTION = ("attention.query", "attention.key", "attention.value", "output.dense")
"""What transformers calls the parts of attention, from version 5 on and before."""

_NAMES = (
    (r"^pretrained\.pos_embed", "backbone.embeddings.position_embeddings"),
    (r"^pretrained\.(cls|mask)_token", r"backbone.embeddings.\1_token"),
    (r"^pretrained\.patch_embed\.proj", "backbone.embeddings.patch_embeddings.projection"),
    (r"^pretrained\.norm", "backbone.layernorm"),
    (r"^pretrained\.blocks", "backbone.encoder.layer"),
    (r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1"),
    (r"^depth_head\.projects\.(\d)", r"neck.reassemble_stage.layers.\1.projection"),
    (r"^depth_head\.resize_layers\.(\d)", r"neck.reassemble_stage.layers.\1.resize"),
    (r"^depth_head\.scratch\.layer(\d)_rn", lambda m: f"neck.convs.{int(m[1]) - 1}"),
    (r"^depth_head\.scratch\.refinenet(\d)", lambda m: f"neck.fusion_stage.layers.{4 - int(m[1])}"),
    (r"\.out_conv\.", ".projection."),
    (r"\.resConfUnit(\d)\.conv(\d)", r".residual_layer\1.convolution\2"),
    (r"^depth_head\.scratch\.output_conv1", "head.conv1"),
    (r"^depth_head\.scratch\.sky_output_conv2", "head.sky"),
    (r"^depth_head\.scratch\.output_conv2\.(0|2)", lambda m: f"head.conv{2 + int(m[1]) // 2}"),
)
"""Parts of the authors' names and of those of transformers."""


def _renamed(state: State, attention: tuple[str, ...]) -> State:
    """The file's tensors under the names of transformers, where query, key and value are three."""
    *three, out = attention
    renamed: State = {}
    for theirs, tensor in state.items():
        name = theirs
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        before, qkv, after = name.partition(".attn.qkv.")
        if qkv:
            parts = zip(three, tensor.chunk(3), strict=True)
            renamed |= {f"{before}.attention.{part}.{after}": values for part, values in parts}
        else:
            renamed[name.replace(".attn.proj.", f".attention.{out}.")] = tensor
    return renamed


register(
    Preprocessor(
        name="depth_anything",
        run=depth_anything,
        label="depth_anything",
        control_types=("Depth",),
        network="Depth Anything, large",
        files=(LARGE,),
        packages=("transformers",),
    )
)
register(
    Preprocessor(
        name="depth_anything_v2",
        run=depth_anything_v2,
        label="depth_anything_v2",
        control_types=("Depth",),
        network="Depth Anything V2, small or large",
        files=(V2_SMALL,),
        instead=V2_LARGE,
        packages=("transformers",),
    )
)
register(
    Preprocessor(
        name="depth_anything_v3",
        run=depth_anything_v3,
        label="depth_anything_v3",
        control_types=("Depth",),
        network="Depth Anything 3, large, for single pictures",
        files=(V3_MONO,),
        packages=("transformers",),
    )
)
