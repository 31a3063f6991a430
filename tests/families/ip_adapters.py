"""IP-Adapters of random weights for a UNet, named and numbered as tencent-ailab/IP-Adapter's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import torch
from torch import Tensor, nn

WIDTH, TOKENS = 40, 4
"""Channels of what the tiny CLIP networks of these tests know, and tokens of a standard projector."""
FACES = ("face_id", "face_id_portrait", "face_id_plus", "face_id_plusv2")


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def projector(kind: str, context: int, face: int = WIDTH, patches: int = WIDTH) -> dict[str, Tensor]:
    """Tensors as tencent-ailab/IP-Adapter names them: ImageProjModel, Resampler, MLPProjModel, and for faces
    another MLPProjModel or ProjPlusModel, which read so many channels of a face and of CLIP's patches."""
    if kind == "standard":
        shapes = {"proj.weight": (TOKENS * context, WIDTH), "proj.bias": (TOKENS * context,)}
        shapes |= {"norm.weight": (context,), "norm.bias": (context,)}
    elif kind == "full-face":
        shapes = {"proj.0.weight": (WIDTH, WIDTH), "proj.0.bias": (WIDTH,)}
        shapes |= {"proj.2.weight": (context, WIDTH), "proj.2.bias": (context,)}
        shapes |= {"proj.3.weight": (context,), "proj.3.bias": (context,)}
    elif kind in FACES:
        tokens = 16 if kind == "face_id_portrait" else TOKENS
        shapes = {"proj.0.weight": (2 * face, face), "proj.0.bias": (2 * face,)}
        shapes |= {"proj.2.weight": (tokens * context, 2 * face), "proj.2.bias": (tokens * context,)}
        shapes |= {"norm.weight": (context,), "norm.bias": (context,)}
        if "plus" in kind:
            within = resampler(context, context, patches)
            shapes |= {f"perceiver_resampler.{name}": shape for name, shape in within.items()}
    else:
        reads = 512 if kind == "instant_id" else WIDTH
        shapes = {"latents": (1, 16, 128)} | resampler(128, context, reads)
    return {name: 0.3 * noise(*shape, seed=n) for n, (name, shape) in enumerate(shapes.items())}


def resampler(dim: int, context: int, reads: int = WIDTH) -> dict[str, tuple[int, ...]]:
    inner = 2 * 64
    shapes: dict[str, tuple[int, ...]] = {"proj_in.weight": (dim, reads), "proj_in.bias": (dim,)}
    shapes |= {"proj_out.weight": (context, dim), "proj_out.bias": (context,)}
    shapes |= {"norm_out.weight": (context,), "norm_out.bias": (context,)}
    for n in range(4):
        shapes |= {f"layers.{n}.0.norm{k}.{what}": (dim,) for k in (1, 2) for what in ("weight", "bias")}
        shapes |= {f"layers.{n}.0.to_q.weight": (inner, dim), f"layers.{n}.0.to_kv.weight": (2 * inner, dim)}
        shapes |= {f"layers.{n}.0.to_out.weight": (dim, inner)}
        shapes |= {f"layers.{n}.1.0.weight": (dim,), f"layers.{n}.1.0.bias": (dim,)}
        shapes |= {f"layers.{n}.1.1.weight": (4 * dim, dim), f"layers.{n}.1.3.weight": (dim, 4 * dim)}
    return shapes


def adapter(unet: nn.Module, kind: str, seed: int = 0, **reads: int) -> dict[str, dict[str, Tensor]]:
    """A file's two parts for a UNet; its layers have the numbers of diffusers' attention processors. Files of
    other seeds have other keys and values. reads: as in `projector`"""
    parts: dict[str, Tensor] = {}
    processors: dict[str, Any] = unet.attn_processors  # type: ignore[assignment]
    for number, name in enumerate(processors):
        if "attn2" in name:
            layer = unet.get_submodule(name.removesuffix(".processor"))
            for n, role in enumerate(("to_k_ip", "to_v_ip")):
                shape = layer.to_k.weight.shape  # type: ignore[union-attr]
                parts[f"{number}.{role}.weight"] = 0.5 * noise(*shape, seed=1000 * seed + 2 * number + n)
            if kind in FACES and "portrait" not in kind:
                parts[f"{number}.to_q_lora.down.weight"] = noise(2, shape[0], seed=0)
                parts[f"{number}.to_q_lora.up.weight"] = noise(shape[0], 2, seed=0)
    context: int = unet.config.cross_attention_dim  # type: ignore[assignment,union-attr]
    return {"image_proj": projector(kind, context, **reads), "ip_adapter": parts}


def flat(file: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}.{name}": tensor for part, tensors in file.items() for name, tensor in tensors.items()}


def saved(path: Path, file: dict[str, dict[str, Tensor]]) -> Path:
    return nets.save(path, flat(file))
