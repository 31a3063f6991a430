"""Both versions of PuLID for the tiny UNets, and a network that looks at pictures."""

from __future__ import annotations

from types import SimpleNamespace

import stage
import torch
from torch import Tensor

from controlstack.embeddings import EVA, EVA_LAYERS, RAW_FACE
from controlstack.image import Array
from controlstack.preprocess import Ask, Embedding, Preprocessor

FAMILY = "PuLID"
FACE, WIDE = 24, 16


def look(image: Array, ask: Ask) -> Embedding:
    """Means of stripes of the picture, far apart from one picture to the next."""
    stripes = torch.from_numpy(image[:, : FACE // 2].astype("float32")).mean((0, 2)) - 128
    return {
        RAW_FACE: stripes[None],
        EVA: stripes.flip(0)[None],
        EVA_LAYERS: stripes.repeat(1, 5, 9, 2)[..., :WIDE],
    }


PREPROCESSOR = Preprocessor("tiny face", lambda image, ask: image, "tiny face", embed=look)
UNIT = {"module": "tiny face"}


def tensors(layout: str, seed: int, face: int = FACE, wide: int = WIDE) -> dict[str, Tensor]:
    """Version 1, named and numbered as the authors save it on diffusers' UNet."""
    torch.manual_seed(seed)
    context = stage.unet(layout).config.cross_attention_dim
    made = mapping("body", face, 5 * context)
    for n in range(5):
        made |= mapping(f"mapping_{n}", wide, context) | mapping(f"mapping_patch_{n}", wide, context)
    return on_unet(layout, made)


def tensors_1_1(layout: str, seed: int) -> dict[str, Tensor]:
    """Version 1.1: five layers of a former 64 wide, whose two heads are as wide again."""
    torch.manual_seed(seed)
    dim, inner, context = 64, 128, stage.unet(layout).config.cross_attention_dim
    made = mapping("id_embedding_mapping", FACE, 5 * dim)
    made |= {"latents": torch.randn(1, 6, dim), "proj_out": torch.randn(dim, context) / dim**0.5}
    for n in range(5):
        look, widen = f"layers.{n}.0", f"layers.{n}.1"
        matrices = {
            f"{look}.to_q": (inner, dim),
            f"{look}.to_kv": (2 * inner, dim),
            f"{look}.to_out": (dim, inner),
        }
        matrices |= {f"{widen}.1": (4 * dim, dim), f"{widen}.3": (dim, 4 * dim)}
        made |= mapping(f"mapping_{n}", WIDE, dim)
        made |= {f"{name}.weight": torch.randn(size) / size[1] ** 0.5 for name, size in matrices.items()}
        for norm in (f"{look}.norm1", f"{look}.norm2", f"{widen}.0"):
            made |= {f"{norm}.weight": torch.ones(dim), f"{norm}.bias": torch.zeros(dim)}
    return on_unet(layout, made)


def on_unet(layout: str, adapter: dict[str, Tensor]) -> dict[str, Tensor]:
    """With keys and values for each attention to the prompt, numbered as diffusers numbers its processors."""
    unet = stage.unet(layout)
    made = {f"id_adapter.{name}": tensor for name, tensor in adapter.items()}
    for number, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            shape = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
            for role in ("id_to_k", "id_to_v"):
                made[f"id_adapter_attn_layers.{number}.{role}.weight"] = torch.randn(shape) / shape[1] ** 0.5
    return made


def mapping(name: str, reads: int, width: int) -> dict[str, Tensor]:
    hidden = 32
    sizes = {0: (hidden, reads), 3: (hidden, hidden), 6: (width, hidden)}
    made = {f"{name}.{n}.weight": torch.randn(size) / size[1] ** 0.5 for n, size in sizes.items()}
    made |= {f"{name}.{n}.bias": torch.randn(size[0]) * 0.1 for n, size in sizes.items()}
    norms = {f"{name}.{n}.weight": torch.ones(hidden) for n in (1, 4)}
    return made | norms | {f"{name}.{n}.bias": torch.zeros(hidden) for n in (1, 4)}


VARIANTS = {
    "PuLID 1.1": SimpleNamespace(LAYOUTS=("sdxl",), tensors=tensors_1_1, UNIT=UNIT, PREPROCESSOR=PREPROCESSOR)
}
