"""Standard IP-Adapters of diffusers' classes, for the tiny UNets, and a network that looks at pictures; files
that read faces, FaceID's and InstantID's."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import ip_adapters
import stage
import torch
from torch import Tensor
from torch.nn.functional import normalize

from controlstack.embeddings import FACE, GREY_PATCHES, PATCHES, POOLED, RAW_FACE
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


def meet(width: int, image: Array, ask: Ask) -> Embedding:
    """The first numbers of the picture, far apart from one picture to the next."""
    patches = torch.from_numpy(image.flatten()[: 9 * width].astype("float32")).reshape(1, 9, width) / 64 - 2
    face = 4 * patches[:, 0]
    grey = torch.zeros_like(patches)
    return {FACE: normalize(face), RAW_FACE: face, PATCHES: patches, GREY_PATCHES: grey}


def reads_faces(kind: str, *layouts: str, ending: str = "", width: int = WIDTH) -> SimpleNamespace:
    def made(layout: str, seed: int) -> dict[str, Tensor]:
        return ip_adapters.flat(ip_adapters.adapter(stage.unet(layout), kind, seed))

    name = f"tiny face {width}"
    met = Preprocessor(name, lambda image, ask: image, name, embed=partial(meet, width))
    return SimpleNamespace(
        LAYOUTS=layouts, tensors=made, UNIT={"module": name}, PREPROCESSOR=met, ENDING=ending
    )


VARIANTS = {
    "FaceID": reads_faces("face_id", "sd1"),
    "FaceID-plus": reads_faces("face_id_plus", "sd1"),
    "FaceID-plus v2": reads_faces("face_id_plusv2", "sdxl", ending="-plusv2"),
    "FaceID portrait": reads_faces("face_id_portrait", "sd1"),
    "FaceID unnorm": reads_faces("face_id_portrait", "sdxl", ending="_unnorm"),
    "InstantID's face": reads_faces("instant_id", "sdxl", width=512),
}
