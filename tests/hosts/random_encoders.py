"""Networks that preprocessors look with, small and of random weights, where and as people have theirs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from controlstack.annotator.masks import lama


def write_clip(folder: Path, name: str, hidden: int, projection: int, seed: int = 0) -> None:
    """CLIP's vision network of two layers.

    hidden, projection: channels of what it knows of a patch, and of the whole picture
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=16,
        image_size=32,
        patch_size=8,
        projection_dim=projection,
        hidden_act="gelu",
    )
    torch.manual_seed(seed)
    network = CLIPVisionModelWithProjection(config)
    for weight in network.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    _write(folder / "clip_vision" / name, network.state_dict())


def write_lama(folder: Path) -> None:
    """LaMa of one block."""
    torch.manual_seed(3)
    painter = lama._Lama(4, 8, 1).state_dict()
    _write(folder / "lama" / lama.WEIGHTS.name, {f"generator.{name}": t for name, t in painter.items()})


def _write(path: Path, state: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state), path)
