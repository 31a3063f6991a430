"""ControlNets of diffusers' class, for the tiny UNets; InstantID's, with the unit whose face it reads."""

from __future__ import annotations

from types import SimpleNamespace

import ip_adapters
import nets
import stage
from torch import Tensor

from controlstack.embeddings import RAW_FACE

FAMILY = "ControlNet"
SOMEBODY = "ip-adapter_instant_id"


def tensors(layout: str, seed: int) -> dict[str, Tensor]:
    return dict(nets.controlnet(nets.LAYOUTS[layout], seed).state_dict())


def somebody(layout: str) -> dict[str, dict[str, Tensor]]:
    file = ip_adapters.adapter(stage.unet(layout), "instant_id")
    return {f"{SOMEBODY}.safetensors": ip_adapters.flat(file)}


VARIANTS = {
    "InstantID": SimpleNamespace(
        LAYOUTS=("sdxl",),
        tensors=tensors,
        ENDING="_instant_id",
        beside=somebody,
        FELLOW={"model": SOMEBODY, "ipadapter_input": [{RAW_FACE: 10 * ip_adapters.noise(1, 512, seed=1)}]},
    )
}
