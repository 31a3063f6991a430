"""Everything in the picture, each thing in a colour at random, whatever it is: Segment Anything.

Source: A. Kirillov and others, Segment Anything, 2023, whose way of asking for everything this is: a network
is shown one point after the other of a grid, and the masks it is sure of are kept. C. Zhang and others,
MobileSAM, 2023; N. Ravi and others, SAM 2, 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controlstack.downloads import File
from controlstack.image import Array
from controlstack.networks import State, filled, imagenet, of_transformers
from controlstack.packages import controlnet_aux, take
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register

MOBILE = File(
    repository="dhkim2810/MobileSAM",
    path="mobile_sam.pt",
    folder="mobile_sam",
    licence="Apache-2.0",
)
SAM2 = File(
    repository="facebook/sam2.1-hiera-tiny",
    path="model.safetensors",
    folder="sam2",
    licence="Apache-2.0",
    saved_as="sam2.1_hiera_tiny.safetensors",
)
SIDE = 1024
"""px that both networks read, of the longer side or of both."""
POINTS, AT_ONCE = 32, 64
"""Points on each side of the grid, and how many the network is shown together."""
FITS, STEADY, MOST_SHARED = 0.88, 0.95, 0.7
"""What a mask has to reach: the network's own estimate of its fit, and how much of it stays when its
threshold rises from -1 to 1. Of two whose boxes share more than the third, the better one stays."""

Decode: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points "N 2", as shares of width and height, to logits of masks "N M H W" in the picture's size, and how
well each fits, "N M"."""


@at_resolution
def mobile_sam(picture: Array, ask: Ask) -> Array:
    """Masks of MobileSAM."""
    network = cast(Any, ask.networks.get(MOBILE, _mobile_network))
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    read_width, read_height = round(width * scale), round(height * scale)
    seen = imagenet(cv2.resize(picture, (read_width, read_height), interpolation=cv2.INTER_LINEAR), network)
    features = network.image_encoder(nn.functional.pad(seen, (0, SIDE - read_width, 0, SIDE - read_height)))
    size = torch.tensor([read_width, read_height], device=features.device)

    def decode(points: Tensor) -> tuple[Tensor, Tensor]:
        at = (points * size)[:, None]
        prompts = network.prompt_encoder((at, torch.ones_like(at[..., 0], dtype=torch.int)), None, None)
        masks, fits = network.mask_decoder(
            image_embeddings=features,
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=prompts[0],
            dense_prompt_embeddings=prompts[1],
            multimask_output=True,
        )
        return _grown(_grown(masks, SIDE, SIDE)[..., :read_height, :read_width], height, width), fits

    return _painted(_everything(decode, features.device), height, width, ask.seed)


@at_resolution
def sam2(picture: Array, ask: Ask) -> Array:
    """Masks of SAM 2."""
    network = cast(Any, ask.networks.get(SAM2, _sam2_network))
    height, width = picture.shape[:2]
    seen = imagenet(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), network)
    features = network.get_image_embeddings(seen)

    def decode(points: Tensor) -> tuple[Tensor, Tensor]:
        found = network(image_embeddings=features, input_points=(points * SIDE)[None, :, None])
        return _grown(found.pred_masks[0], height, width), found.iou_scores[0]

    return _painted(_everything(decode, seen.device), height, width, ask.seed)


def _mobile_network(state: State) -> nn.Module:
    return filled(controlnet_aux("segment_anything.build_sam").build_sam_vit_t(), state)


def _sam2_network(state: State) -> nn.Module:
    model, config = (take("transformers", name) for name in ("Sam2Model", "Sam2Config"))
    return of_transformers(model, config(), state)


def _grown(masks: Tensor, height: int, width: int) -> Tensor:
    return nn.functional.interpolate(masks.float(), (height, width), mode="bilinear", align_corners=False)


def _everything(decode: Decode, device: torch.device) -> list[NDArray[np.bool_]]:
    """Masks "H W" that differ, the largest first."""
    side = (torch.arange(POINTS, device=device) + 0.5) / POINTS
    grid = torch.cartesian_prod(side, side).flip(1)
    masks: list[NDArray[np.bool_]] = []
    fits: list[float] = []
    for points in grid.split(AT_ONCE):
        logits, fit = (found.flatten(0, 1) for found in decode(points))
        sure = fit > FITS
        logits, fit = logits[sure], fit[sure]
        steady = (logits > 1).sum((1, 2)) / (logits > -1).sum((1, 2)) >= STEADY
        masks += list((logits[steady] > 0).cpu().numpy())
        fits += fit[steady].tolist()
    return sorted(
        (masks[index] for index in _distinct(masks, np.array(fits))), key=np.count_nonzero, reverse=True
    )


def _distinct(masks: list[NDArray[np.bool_]], fits: NDArray[np.float64]) -> list[int]:
    """Which masks stay when the better of two in almost the same box does, the best first."""
    boxes = np.array([_box(mask) for mask in masks], np.float64).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order, kept = np.argsort(-fits, kind="stable"), []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(int(best))
        ends = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        shared = ends.clip(0).prod(axis=1)
        order = order[shared <= MOST_SHARED * (areas[best] + areas[order] - shared)]
    return kept


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The first and last columns and rows with something: left, top, right, bottom."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return (columns[0], rows[0], columns[-1], rows[-1]) if columns.size else (0, 0, 0, 0)


def _painted(masks: list[NDArray[np.bool_]], height: int, width: int, seed: int) -> Array:
    """Small masks over large ones on black."""
    random = np.random.RandomState(seed & 0xFFFFFFFF)
    drawing = np.zeros((height, width, 3), np.uint8)
    for mask in masks:
        drawing[mask] = random.randint(0, 255, 3)
    return drawing


for name, run, network, file, packages in (
    ("mobile_sam", mobile_sam, "MobileSAM", MOBILE, ("controlnet_aux", "timm", "torchvision")),
    ("sam2", sam2, "SAM 2.1, Hiera-T", SAM2, ("transformers",)),
):
    register(
        Preprocessor(
            name=name,
            run=run,
            label=name,
            control_types=("Segmentation",),
            seeded=True,
            network=network,
            files=(file,),
            packages=packages,
        )
    )
