"""CLIP's text encoders in a single-file base, sizes read from their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from controlstack import weights
from controlstack.errors import ControlError
from controlstack.hosts.embedded import tokenizer

SD1, SD2 = "cond_stage_model.transformer.", "cond_stage_model.model."
SDXL_L, SDXL_G = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."


def load(header: weights.Header) -> dict[str, Any]:
    """`text_encoder`, `tokenizer`, SDXL's `text_encoder_2`, `tokenizer_2`. Raises ControlError if none."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    if any(name.startswith(SDXL_G) for name in header.shapes):
        return {
            "text_encoder": build(CLIPTextModel, _clip(header, SDXL_L), "quick_gelu"),
            "tokenizer": tokenizer.clip(),
            "text_encoder_2": build(CLIPTextModelWithProjection, open_clip(_behind(header, SDXL_G)), "gelu"),
            "tokenizer_2": tokenizer.clip(pad="!"),
        }
    if any(name.startswith(SD2) for name in header.shapes):
        tensors = without_last_layer(open_clip(_behind(header, SD2)))
        return {"text_encoder": build(CLIPTextModel, tensors, "gelu"), "tokenizer": tokenizer.clip(pad="!")}
    if any(name.startswith(SD1) for name in header.shapes):
        return {
            "text_encoder": build(CLIPTextModel, _clip(header, SD1), "quick_gelu"),
            "tokenizer": tokenizer.clip(),
        }
    raise ControlError(
        f"The file {header.path.name} has no text encoder",
        "Without one it cannot read a prompt",
        "Choose a complete checkpoint",
    )


def build(kind: Any, tensors: Mapping[str, Tensor], activation: str) -> Any:
    """A transformers text model with these tensors, named as in CLIPTextModel before transformers 5.6."""
    from transformers import CLIPTextConfig

    width = tensors["text_model.embeddings.token_embedding.weight"].shape
    config = CLIPTextConfig(
        vocab_size=width[0],
        hidden_size=width[1],
        intermediate_size=tensors[f"{_layer(0)}mlp.fc1.weight"].shape[0],
        num_hidden_layers=_layers(tensors),
        num_attention_heads=max(1, width[1] // 64),  # 64 channels a head in every CLIP text model
        max_position_embeddings=tensors["text_model.embeddings.position_embedding.weight"].shape[0],
        hidden_act=activation,
        projection_dim=tensors["text_projection.weight"].shape[0]
        if "text_projection.weight" in tensors
        else width[1],
    )
    with torch.device("meta"):
        model = kind(config)
    # transformers 5.6 dropped "text_model." from CLIPTextModel's names.
    wanted = [name for name, _ in model.named_parameters()]
    model.load_state_dict(
        {n: tensors[n if n in tensors else f"text_model.{n}"] for n in wanted}, assign=True, strict=False
    )
    for module in model.modules():
        if hasattr(module, "position_ids"):
            module.position_ids = torch.arange(config.max_position_embeddings).expand(1, -1)
    return model


def without_last_layer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SD2 was trained on the last layer but one of its text encoder, behind the final norm."""
    last = _layer(_layers(tensors) - 1)
    return {
        name: tensor for name, tensor in tensors.items() if not name.startswith((last, "text_projection"))
    }


def open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's tensors under CLIPTextModel's names: q, k and v apart, the projection transposed."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = _renamed(name)
        if new == "text_projection":
            found["text_projection.weight"] = tensor.T.contiguous()
        elif ".in_proj_" in new:
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                found[new.replace("in_proj_", f"{part}_proj.")] = chunk
        else:
            found[new] = tensor
    return found


def _clip(header: weights.Header, prefix: str) -> dict[str, Tensor]:
    # Files of 2022 lack the "text_model." that transformers put before these names later.
    return {f"text_model.{n.removeprefix('text_model.')}": t for n, t in _behind(header, prefix).items()}


def _behind(header: weights.Header, prefix: str) -> dict[str, Tensor]:
    names = [name for name in header.shapes if name.startswith(prefix)]
    return {
        n.removeprefix(prefix): t for n, t in weights.read_tensors(header, names, dtype=torch.float32).items()
    }


_RENAMED = {
    "token_embedding.": "text_model.embeddings.token_embedding.",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "transformer.resblocks.": "text_model.encoder.layers.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.": ".self_attn.",
}


def _renamed(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _layer(index: int) -> str:
    return f"text_model.encoder.layers.{index}."


def _layers(tensors: Mapping[str, Tensor]) -> int:
    count = 0
    while f"{_layer(count)}mlp.fc1.weight" in tensors:
        count += 1
    return count
