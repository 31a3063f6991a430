"""Depth by Depth Anything 1 and 2, near is bright, in whatever size of network the file holds.

Source: L. Yang and others, Depth Anything, and Depth Anything V2, both 2024. The published files have the
names of the authors' code; the network is that of transformers.
"""

from __future__ import annotations

import re
from functools import partial
from math import isqrt

import cv2
import torch
from torch import nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, filled, imagenet
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
SIDE, PATCH = 518, 14
"""px: the least side that the network reads, and what its sides are multiples of."""
FOUR_BLOCKS = {24: (5, 12, 18, 24)}
"""The blocks whose features version 2 uses, by the number of all; elsewhere it is every quarter's last."""


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


def _network(state: State, *, last_four: bool = False) -> nn.Module:
    """The network whose sizes the file tells. last_four: its head reads the last four blocks (version 1)."""
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
    network: nn.Module = take("transformers", "DepthAnythingForDepthEstimation")(config)
    old = "backbone.encoder.layer.0.attention.attention.query.weight" in network.state_dict()
    return filled(network, _renamed(state, _OLD_ATTENTION if old else _ATTENTION))


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
