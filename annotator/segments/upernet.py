"""What each pixel belongs to, in ADE20K's colours, by a small and fast network.

Source: T. Xiao and others, Unified Perceptual Parsing for Scene Understanding, 2018, as trained by OpenMMLab
on a ConvNeXt. It has the name of the UperNet on a UniFormer, whose code lives in no package: the classes,
their colours and the size that is read are the same.
"""

from __future__ import annotations

import cv2
import torch
from torch import nn

from controlstack.downloads import File
from controlstack.image import Array
from controlstack.networks import State, imagenet, of_transformers
from controlstack.packages import take
from controlstack.palettes import ADE20K
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register

WEIGHTS = File(
    repository="openmmlab/upernet-convnext-small",
    path="pytorch_model.bin",
    folder="upernet",
    licence="MIT",
    saved_as="upernet-convnext-small.bin",
)
SHORTEST, LONGEST = 512, 2048
"""px of the sides that the network reads: the short one is so long, and the long one no longer."""


@at_resolution
def segmentation(picture: Array, ask: Ask) -> Array:
    """150 classes."""
    network = ask.networks.get(WEIGHTS, _network)
    height, width = picture.shape[:2]
    scale = min(SHORTEST / min(height, width), LONGEST / max(height, width))
    read = max(1, round(width * scale)), max(1, round(height * scale))
    likely = network(imagenet(cv2.resize(picture, read, interpolation=cv2.INTER_LINEAR), network)).logits
    likely = nn.functional.interpolate(likely, (height, width), mode="bilinear", align_corners=False)
    return ADE20K[likely[0].argmax(0).to(torch.uint8).cpu().numpy()]


def _network(state: State) -> nn.Module:
    """The network whose sizes the file tells."""
    stages: dict[str, list[int]] = {}  # the widths of blocks, by stage
    for name, tensor in state.items():
        if name.startswith("backbone.encoder.stages.") and name.endswith(".dwconv.bias"):
            stages.setdefault(name.split(".")[3], []).append(len(tensor))
    auxiliary = state["auxiliary_head.convs.0.conv.weight"]
    config = take("transformers", "UperNetConfig")(
        backbone_config=take("transformers", "ConvNextConfig")(
            depths=[len(stages[stage]) for stage in sorted(stages)],
            hidden_sizes=[stages[stage][0] for stage in sorted(stages)],
            out_features=[f"stage{number}" for number in range(1, len(stages) + 1)],
        ),
        hidden_size=state["decode_head.classifier.weight"].shape[1],
        num_labels=len(state["decode_head.classifier.bias"]),
        # it only helps in training, but older versions of transformers fail without it
        auxiliary_channels=auxiliary.shape[0],
        auxiliary_in_channels=auxiliary.shape[1],
    )
    return of_transformers(take("transformers", "UperNetForSemanticSegmentation"), config, state)


register(
    Preprocessor(
        name="segmentation",
        run=segmentation,
        label="seg_ufade20k",
        control_types=("Segmentation",),
        network="UperNet, ConvNeXt-S",
        files=(WEIGHTS,),
        packages=("transformers",),
    )
)
