"""T2I style adapters under TencentARC's names, for the tiny UNet of SD1, and what looks at pictures."""

from __future__ import annotations

import nets
import torch
from torch import Tensor

from controlstack.embeddings import LAST_PATCHES
from controlstack.image import Array
from controlstack.preprocess import Ask, Embedding, Preprocessor

FAMILY = "T2I style adapter"
LAYOUTS = ("sd1",)
WIDTH, TOKENS, LAYERS = 32, 8, 2


def look(image: Array, ask: Ask) -> Embedding:
    """Four patches, lines of the picture, far apart from one picture to the next."""
    return {LAST_PATCHES: torch.from_numpy(image[:4, :WIDTH, 0].astype("float32"))[None] / 16 - 8}


PREPROCESSOR = Preprocessor("tiny clip-l", lambda image, ask: image, "tiny clip-l", embed=look)
UNIT = {"module": "tiny clip-l"}


def tensors(layout: str, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    context = nets.LAYOUTS[layout]["cross_attention_dim"]
    shapes: dict[str, tuple[int, ...]] = {"style_embedding": (1, TOKENS, WIDTH), "proj": (WIDTH, context)}
    for n in range(LAYERS):
        layer = {
            "attn.in_proj_weight": (3 * WIDTH, WIDTH),
            "attn.in_proj_bias": (3 * WIDTH,),
            "attn.out_proj.weight": (WIDTH, WIDTH),
            "attn.out_proj.bias": (WIDTH,),
            "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
            "mlp.c_fc.bias": (4 * WIDTH,),
            "mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
            "mlp.c_proj.bias": (WIDTH,),
        }
        norms = {f"{norm}.{part}": (WIDTH,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
        shapes |= {f"transformer_layes.{n}.{name}": shape for name, shape in (layer | norms).items()}
    shapes |= {f"{norm}.{part}": (WIDTH,) for norm in ("ln_pre", "ln_post") for part in ("weight", "bias")}
    made = {
        name: torch.randn(shape, generator=generator) / (shape[-1] ** 0.5 if len(shape) == 2 else 1)
        for name, shape in shapes.items()
    }
    made = {name: 3 * t if ".attn." in name else t for name, t in made.items()}
    return made | {"style_embedding": 0.1 * made["style_embedding"], "proj": 20 * made["proj"]}
