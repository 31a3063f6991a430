"""What each pixel belongs to, in ADE20K's or COCO's colours: a wall, the sky, a person.

Source: J. Jain and others, OneFormer: One Transformer to Rule Universal Image Segmentation, 2022. Its
authors publish the weights twice: these are the files for transformers (`pytorch_model.bin`), not those for
detectron2.
"""

from __future__ import annotations

from math import isqrt

import cv2
import torch
from torch import Tensor, nn

from controlstack.downloads import File
from controlstack.image import Array
from controlstack.networks import State, imagenet, of_transformers
from controlstack.packages import take
from controlstack.palettes import ADE20K, COCO
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register

ADE20K_WEIGHTS = File(
    repository="shi-labs/oneformer_ade20k_swin_large",
    path="pytorch_model.bin",
    folder="oneformer",
    licence="MIT",
    saved_as="oneformer_ade20k_swin_large.bin",
)
COCO_WEIGHTS = File(
    repository="shi-labs/oneformer_coco_swin_large",
    path="pytorch_model.bin",
    folder="oneformer",
    licence="MIT",
    saved_as="oneformer_coco_swin_large.bin",
)
TASK = (49406, 518, 10549, 533, 29119, 1550, 49407)
"""CLIP's tokens of "the task is semantic"; zeros follow."""
TOKENS = 77


def oneformer_ade20k(image: Array, ask: Ask) -> Array:
    """150 classes; the network reads a short side of 640 px, and at most 2560 px of the long one."""
    return ADE20K[_classes(image, ask, ADE20K_WEIGHTS, 640, 2560)]


def oneformer_coco(image: Array, ask: Ask) -> Array:
    """133 classes; the network reads a short side of 800 px, and at most 1333 px of the long one."""
    return COCO[_classes(image, ask, COCO_WEIGHTS, 800, 1333)]


@at_resolution
def _classes(picture: Array, ask: Ask, weights: File, shortest: int, longest: int) -> Array:
    """The likeliest class of each pixel "h w"."""
    network = ask.networks.get(weights, _network)
    height, width = picture.shape[:2]
    scale = min(shortest / min(height, width), longest / max(height, width))
    read = max(1, round(width * scale)), max(1, round(height * scale))
    seen = imagenet(cv2.resize(picture, read, interpolation=cv2.INTER_LINEAR), network)
    task = torch.tensor([[*TASK, *[0] * (TOKENS - len(TASK))]], device=seen.device)
    found = network(pixel_values=seen, task_inputs=task)
    classes = found.class_queries_logits[0].softmax(-1)[:, :-1]  # the last one is nothing
    likely = torch.einsum("qc,qhw->chw", classes, found.masks_queries_logits[0].sigmoid())
    likely = nn.functional.interpolate(likely[None], (height, width), mode="bilinear", align_corners=False)
    return likely[0].argmax(0).to(torch.uint8).cpu().numpy()


def _network(state: State) -> nn.Module:
    """The network whose backbone's sizes, queries and classes the file tells."""
    encoder, decoder = "model.pixel_level_module.encoder", "model.transformer_module"
    tables: dict[str, list[Tensor]] = {}  # the positions in a window, by stage
    for name, tensor in state.items():
        if name.startswith(encoder) and name.endswith("relative_position_bias_table"):
            tables.setdefault(name.split(".layers.")[1].split(".")[0], []).append(tensor)
    stages = [tables[stage] for stage in sorted(tables)]
    swin = take("transformers", "SwinConfig")(
        image_size=384,
        embed_dim=len(state[f"{encoder}.embeddings.norm.bias"]),
        depths=[len(blocks) for blocks in stages],
        num_heads=[blocks[0].shape[1] for blocks in stages],
        window_size=(isqrt(len(stages[0][0])) + 1) // 2,
        out_features=[f"stage{number}" for number in range(1, len(stages) + 1)],
    )
    config = take("transformers", "OneFormerConfig")(
        backbone_config=swin,
        num_queries=len(state[f"{decoder}.queries_embedder.weight"]),
        num_labels=len(state[f"{decoder}.decoder.class_embed.bias"]) - 1,
    )
    model = take("transformers", "OneFormerForUniversalSegmentation")
    return of_transformers(model, config, state, unused=(".swin.layernorm.",))


for name, label, run, weights, priority in (
    ("oneformer_ade20k", "seg_ofade20k", oneformer_ade20k, ADE20K_WEIGHTS, 100),
    ("oneformer_coco", "seg_ofcoco", oneformer_coco, COCO_WEIGHTS, 0),
):
    register(
        Preprocessor(
            name=name,
            run=run,
            label=label,
            control_types=("Segmentation",),
            priority=priority,
            network="OneFormer, Swin-L",
            files=(weights,),
            packages=("transformers",),
        )
    )
