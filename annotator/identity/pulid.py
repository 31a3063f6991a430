"""Who somebody is, for PuLID (Guo et al., arXiv 2404.16022): what InsightFace knows of the face, and what
EVA-CLIP sees of it in grey, upright and without hair, clothes and ground.

The upright face is cut by InsightFace's five points; the authors find them once more with facexlib.
"""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from controlstack.downloads import File
from controlstack.embeddings import EVA, EVA_LAYERS, RAW_FACE
from controlstack.face_analysis import ANTELOPE, Face, known, largest
from controlstack.image import Array
from controlstack.networks import State, below, filled, pixels
from controlstack.packages import alone, bring
from controlstack.preprocess import Ask, Embedding, Preprocessor, register

PARTS = File(
    "leonelhs/facexlib",
    "parsing_bisenet.pth",
    "facexlib",
    "CelebAMask-HQ's, non-commercial",
    placed_by_user=True,
)
SEEN = File(
    "QuanSun/EVA-CLIP",
    "EVA02_CLIP_L_336_psz14_s6B.pt",
    "clip_vision",
    "MIT, EVA-CLIP's",
    placed_by_user=True,
)
SIDE = 512
"""px of the upright face."""
UPRIGHT = np.array(
    [
        *([192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935]),
        *([201.26117, 371.41043], [313.08905, 371.15118]),
    ]
)
"""Where its points lie, FFHQ's."""
EDGE = (132, 133, 135)
"""Around a face that lies at the edge of the picture."""
GROUND, EARS_TO_CLOTHES, NECK = 0, (7, 8, 9), (14, 15)
NO_FACE = (GROUND, *EARS_TO_CLOTHES, *NECK, 16, 18)
"""What is made white: the ground, ears with rings, neck with necklace, cloth and hat, by CelebAMask-HQ's
numbers."""
GREY = (0.299, 0.587, 0.114)
DEPTHS = (4, 8, 12, 16, 20)
"""Blocks of EVA-CLIP whose input is read."""
HEAD, GRID = 64, 16
"""Channels of a head, and patches to a side of the picture for which EVA-CLIP counts rotary positions."""
MEANS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP_MEANS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and spread of the pictures that each network learned from."""


def face_alone(image: Array, ask: Ask) -> Array:
    """The largest face, grey on white, "512 512 3"."""
    return _grey(image, largest(image, ANTELOPE, ask.networks), ask)


def embed(image: Array, ask: Ask) -> Embedding:
    """`raw_face_embeds` "1 512", `eva_embeds` "1 768" and `eva_hidden_states` "1 5 N 1024"."""
    face = largest(image, ANTELOPE, ask.networks)
    whole, depths = look(_grey(image, face, ask), ask)
    return {RAW_FACE: known(image, face, ANTELOPE, ask.networks), EVA: F.normalize(whole), EVA_LAYERS: depths}


def look(face: Array, ask: Ask) -> tuple[Tensor, Tensor]:
    """What EVA-CLIP knows of the whole picture, and of every patch at each of `DEPTHS`."""
    network = cast(Any, ask.networks.get(SEEN, _eva))
    size = network.patch_embed.img_size
    picture = F.interpolate(pixels(face, network) / 255, size, mode="bicubic", antialias=True)
    depths: list[Tensor] = []
    hooks = [
        network.blocks[n].register_forward_pre_hook(lambda _, given: depths.append(given[0])) for n in DEPTHS
    ]
    try:
        with torch.no_grad():
            whole = network(_normal(picture, CLIP_MEANS))
    finally:
        for hook in hooks:
            hook.remove()
    return whole, torch.stack(depths, dim=1)


def _grey(image: Array, face: Face, ask: Ask) -> Array:
    turn = cv2.estimateAffinePartial2D(face.points, UPRIGHT, method=cv2.LMEDS)[0]
    upright = np.asarray(cv2.warpAffine(image, turn, (SIDE, SIDE), borderValue=EDGE), np.uint8)
    network = ask.networks.get(PARTS, _bisenet)
    picture = pixels(upright, network) / 255
    with torch.no_grad():
        parts = network(_normal(picture, MEANS))[0].argmax(1, keepdim=True)
    grey = (picture * picture.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
    shown = torch.where(torch.isin(parts, parts.new_tensor(NO_FACE)), 1.0, grey)
    levels: Array = (shown * 255).round().byte()[0, 0].cpu().numpy()
    return np.repeat(levels[..., None], 3, axis=2)


def _normal(picture: Tensor, means: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, spread = (picture.new_tensor(one)[:, None, None] for one in means)
    return (picture - mean) / spread


def _bisenet(state: State) -> nn.Module:
    """BiSeNet (Yu et al., arXiv 1808.00897) for the 19 parts of CelebAMask-HQ."""
    return filled(alone("facexlib", "parsing.bisenet").BiSeNet(num_class=19), state)


def _eva(state: State) -> nn.Module:
    """EVA-CLIP's vision transformer (Sun et al., arXiv 2303.15389) of the state's sizes."""
    library = bring("timm.models.eva")
    state = below(state, "visual.")
    width, _, _, patch = state["patch_embed.proj.weight"].shape
    network = library.Eva(
        img_size=round((state["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        num_classes=len(state["head.weight"]),
        global_pool="token",
        embed_dim=width,
        depth=sum(name.endswith("mlp.w3.weight") for name in state),
        num_heads=width // HEAD,
        mlp_ratio=len(state["blocks.0.mlp.w1.weight"]) / width,
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(GRID, GRID),
    )
    return filled(network, library.checkpoint_filter_fn(state, network))


register(
    Preprocessor(
        name="facexlib",
        run=face_alone,
        label="facexlib",
        resolution=None,
        network="InsightFace's antelopev2 and BiSeNet",
        files=(ANTELOPE.detector, PARTS),
        packages=("facexlib",),
    )
)
register(
    Preprocessor(
        name="ip-adapter_pulid",
        run=face_alone,
        embed=embed,
        label="ip-adapter_pulid",
        control_types=("IP-Adapter",),
        resolution=None,
        network="InsightFace's antelopev2, BiSeNet and EVA02-CLIP-L-14-336",
        files=(*ANTELOPE.files, PARTS, SEEN),
        packages=("facexlib", "timm"),
    )
)
