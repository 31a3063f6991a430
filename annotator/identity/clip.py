"""What CLIP knows of a picture, for IP-Adapters, style adapters and Revision; and of a face alone, beside
what a network for faces knows, for IP-Adapter FaceID-plus.

The picture is squashed to the network's square without regard to its aspect, and what the unit's mask covers
is blanked, both as in the incumbent. Source: Radford et al., arXiv 2103.00020; the larger networks are
OpenCLIP's.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from controlstack.downloads import File
from controlstack.embeddings import FACE, RAW_FACE
from controlstack.face_analysis import BUFFALO, known, largest, upright
from controlstack.image import Array
from controlstack.networks import State, filled
from controlstack.packages import bring
from controlstack.preprocess import Ask, Embedding, Preprocessor, Slider, register

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP learned from."""
HEADS = 16
"""In all three networks."""
FACE_PLUS_SIDE = 224
"""px of the upright face that FaceID-plus models were trained with."""

H = File(
    "h94/IP-Adapter", "models/image_encoder/pytorch_model.bin", "clip_vision", "MIT", saved_as="clip_h.pth"
)
G = File("lllyasviel/Annotators", "clip_g.pth", "clip_vision", "MIT")
L = File("openai/clip-vit-large-patch14", "pytorch_model.bin", "clip_vision", "MIT", saved_as="clip_vitl.pth")


def shown(image: Array, ask: Ask) -> Array:
    """The picture itself."""
    return image.copy()


def embed(file: File, image: Array, ask: Ask) -> Embedding:
    """`image_embeds` "1 D", the picture as a whole; `hidden_states` "1 N C", the second last layer's of every
    patch; `last_hidden_state` "1 N C"; and `uncond_hidden_states`, the second last layer's of a grey picture.
    """
    network = cast(Any, ask.networks.get(file, _network))
    side = network.config.image_size
    squashed = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    pixels = torch.from_numpy((squashed - MEAN) / SPREAD).float().permute(2, 0, 1)[None]
    if ask.mask is not None:
        covered = cv2.resize(ask.mask, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        pixels = pixels * (1 - torch.from_numpy(covered))
    grey = torch.zeros_like(pixels)
    with torch.no_grad():
        seen = network(torch.cat([pixels, grey]).to(network.device), output_hidden_states=True)
    return {
        "image_embeds": seen.image_embeds[:1],
        "hidden_states": seen.hidden_states[-2][:1],
        "last_hidden_state": seen.last_hidden_state[:1],
        "uncond_hidden_states": seen.hidden_states[-2][1:],
    }


def embed_face(image: Array, ask: Ask) -> Embedding:
    """The same of the largest face, turned upright, as the models were trained, with `face_embeds` and
    `raw_face_embeds`, both "1 512"."""
    face = largest(image, BUFFALO, ask.networks)
    found = known(image, face, BUFFALO, ask.networks)
    return {**embed(H, upright(image, face, FACE_PLUS_SIDE), ask), FACE: normalize(found), RAW_FACE: found}


def _network(state: State) -> nn.Module:
    """A CLIP vision network of the state's sizes; OpenAI's own has another activation than OpenCLIP's."""
    library = bring("transformers")
    vision = "vision_model."
    state = {
        name: tensor
        for name, tensor in state.items()
        if name.startswith((vision, "visual_projection.")) and not name.endswith("position_ids")
    }
    patches = state[f"{vision}embeddings.patch_embedding.weight"]
    projection = state["visual_projection.weight"]
    positions = len(state[f"{vision}embeddings.position_embedding.weight"])
    config = library.CLIPVisionConfig(
        hidden_size=patches.shape[0],
        intermediate_size=len(state[f"{vision}encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=sum(name.endswith("mlp.fc1.weight") for name in state),
        num_attention_heads=HEADS,
        image_size=round((positions - 1) ** 0.5) * patches.shape[-1],
        patch_size=patches.shape[-1],
        projection_dim=len(projection),
        hidden_act="quick_gelu" if len(projection) == 768 else "gelu",
    )
    return filled(library.CLIPVisionModelWithProjection(config), state)


for name, label, file, control_type, priority in (
    ("ip-adapter_clip_sd15", "ip-adapter_clip_h", H, "IP-Adapter", 100),
    ("ip-adapter_clip_sdxl_plus_vith", "ip-adapter_clip_sdxl_plus_vith", H, "IP-Adapter", 0),
    ("ip-adapter_clip_sdxl", "ip-adapter_clip_g", G, "IP-Adapter", 0),
    ("clip_vision", "t2ia_style_clipvision", L, "T2I-Adapter", 0),
):
    register(
        Preprocessor(
            name=name,
            run=shown,
            embed=partial(embed, file),
            label=label,
            control_types=(control_type,),
            priority=priority,
            resolution=None,
            accepts_mask=control_type == "IP-Adapter",
            shows_control_mode=False,
            network="CLIP's vision transformer",
            files=(file,),
            packages=("transformers",),
        )
    )

for name, companion, priority in (
    ("revision_clipvision", "revision", 100),
    ("revision_ignore_prompt", "revision without the prompt", 0),
):
    register(
        Preprocessor(
            name=name,
            run=shown,
            embed=partial(embed, G),
            label=name,
            control_types=("Revision",),
            priority=priority,
            resolution=None,
            a=Slider("Noise Augmentation", 0, 1, 0.01, 0),
            needs_model=False,
            shows_control_mode=False,
            companions=(companion,),
            network="CLIP's vision transformer",
            files=(G,),
            packages=("transformers",),
        )
    )

register(
    Preprocessor(
        name="ip-adapter_face_id_plus",
        run=shown,
        embed=embed_face,
        label="ip-adapter_face_id_plus",
        control_types=("IP-Adapter",),
        resolution=None,
        shows_control_mode=False,
        network="InsightFace's buffalo_l and CLIP's vision transformer",
        files=(*BUFFALO.files, H),
        packages=("transformers",),
    )
)
