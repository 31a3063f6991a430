"""Standard IP-Adapters of diffusers' classes, for the tiny UNets, and a network that looks at pictures."""

from __future__ import annotations

import stage
import torch
from torch import Tensor

from controlstack.embeddings import POOLED
from controlstack.image import Array
from controlstack.preprocess import Ask, Embedding, Preprocessor

FAMILY = "IP-Adapter"
WIDTH, TOKENS = 40, 4


def look(image: Array, ask: Ask) -> Embedding:
    """Means of stripes of the picture, far apart from one picture to the next."""
    stripes = torch.from_numpy(image[:, : WIDTH // 2].astype("float32")).mean((0, 2))
    return {POOLED: torch.cat([stripes, stripes.flip(0)])[None] - 128}


PREPROCESSOR = Preprocessor("tiny clip", lambda image, ask: image, "tiny clip", embed=look)
UNIT = {"module": "tiny clip"}


def tensors(layout: str, seed: int) -> dict[str, Tensor]:
    """Named and numbered as tencent-ailab/IP-Adapter saves them on diffusers' UNet."""
    torch.manual_seed(seed)
    unet = stage.unet(layout)
    context = unet.config.cross_attention_dim
    projector = {
        "proj.weight": torch.randn(TOKENS * context, WIDTH),
        "proj.bias": torch.randn(TOKENS * context),
    }
    projector |= {"norm.weight": torch.ones(context), "norm.bias": torch.zeros(context)}
    made = {f"image_proj.{name}": tensor for name, tensor in projector.items()}
    for number, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            shape = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
            for role in ("to_k_ip", "to_v_ip"):
                made[f"ip_adapter.{number}.{role}.weight"] = torch.randn(shape) * 0.7 / context**0.5
    return made
