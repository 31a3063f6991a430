"""Depth by Depth Pro, near is bright, with sharp outlines: it looks at the picture in tiles of three scales.

Source: A. Bochkovskii and others, Depth Pro: Sharp Monocular Metric Depth in Less Than a Second, 2024. What
it finds is the inverse of depth; the scale, which a focal length would give, is lost in the map.
"""

from __future__ import annotations

from math import isqrt

import cv2
import torch
from torch import nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, of_transformers, pixels
from controlstack.packages import take
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register
from controlstack.strokes import levels

WEIGHTS = File(
    repository="apple/DepthPro-hf",
    path="model.safetensors",
    folder="depth_pro",
    licence="Apple's for research, non-commercial",
    saved_as="depth_pro.safetensors",
    placed_by_user=True,
)
HEAD = 64
"""Width of one head of attention."""


@at_resolution
def depth_pro(picture: Array, ask: Ask) -> Array:
    """Depth, over the whole range of grey."""
    network = ask.networks.get(WEIGHTS, _network)
    height, width = picture.shape[:2]
    side = 4 * network.config.patch_size  # type: ignore[union-attr, operator]  so that tiles cover it
    seen = pixels(cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR), network) / 127.5 - 1
    found = network(seen).predicted_depth[None].float()
    found = nn.functional.interpolate(found, (height, width), mode="bilinear", align_corners=False)[0, 0]
    above = found - found.min()
    return hwc3(levels((above / above.max().clamp(min=torch.finfo(torch.float32).tiny)).cpu().numpy()))


def _network(state: State) -> nn.Module:
    """The network whose sizes the file tells; it needs no field of view."""
    neck, upsample = "depth_pro.neck", "depth_pro.neck.feature_upsample"
    patches, image = (
        _backbone(state, f"depth_pro.encoder.{part}_encoder.model") for part in ("patch", "image")
    )
    layers = patches["num_hidden_layers"]
    config = take("transformers", "DepthProConfig")(
        patch_size=patches["image_size"],
        fusion_hidden_size=len(state[f"{neck}.feature_projection.projections.0.weight"]),
        intermediate_hook_ids=[layers // 2 - 1, layers // 4 - 1],
        intermediate_feature_dims=[
            state[f"{upsample}.intermediate.{number}.layers.{last}.weight"].shape[1]
            for number, last in ((0, 2), (1, 3))
        ],
        scaled_images_feature_dims=[
            state[f"{upsample}.scaled_images.{number}.layers.1.weight"].shape[1] for number in range(3)
        ],
        patch_model_config=patches,
        image_model_config=image,
        fov_model_config=patches,
        use_fov_model=False,
    )
    return of_transformers(take("transformers", "DepthProForDepthEstimation"), config, state)


def _backbone(state: State, name: str) -> dict[str, int | str | bool]:
    """The configuration of a DINOv2."""
    _, positions, width = state[f"{name}.embeddings.position_embeddings"].shape
    patch = state[f"{name}.embeddings.patch_embeddings.projection.weight"].shape[-1]
    blocks = {
        key.split(".layer.")[1].split(".")[0] for key in state if key.startswith(f"{name}.encoder.layer.")
    }
    return {
        "model_type": "dinov2",
        "image_size": isqrt(positions - 1) * patch,
        "patch_size": patch,
        "num_hidden_layers": len(blocks),
        "hidden_size": width,
        "num_attention_heads": width // HEAD,
        "mlp_ratio": len(state[f"{name}.encoder.layer.0.mlp.fc1.bias"]) // width,
        "use_mask_token": f"{name}.embeddings.mask_token" in state,
    }


register(
    Preprocessor(
        name="depth_pro",
        run=depth_pro,
        label="depth_pro",
        control_types=("Depth",),
        network="Depth Pro",
        files=(WEIGHTS,),
        packages=("transformers",),
    )
)
