"""Control models for the demo: ControlNets with seeded random weights for the random SD1-shaped base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from controlstack.hosts.embedded import ldm_names, random_nets

FOLDER = Path(__file__).parent / "demo_weights"
BASE = "controlstack-demo"
"""The base's name, and what other names begin with."""
CONTROLNETS, EXAMPLES = "ControlNet", "examples"
"""Folders beside the base."""


def controlnet(kind: str) -> str:
    """The name of the model of a kind: canny, depth …"""
    return f"{BASE}-{kind}"


def is_there(kind: str, folder: Path = FOLDER) -> bool:
    """Whether the model of this kind was made."""
    return (folder / CONTROLNETS / f"{controlnet(kind)}.safetensors").exists()


MODELS = {"demo_canny": 1, "demo_lineart": 2}
"""File name -> seed."""

_HINT_GAIN = 2.5
"""Keeps the hint strong through the eight convolutions of the hint encoder, with SiLU between them."""


def ensure(folder: Path) -> None:
    """Write those of the models that are not there yet, as LDM files, whole or not at all."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in MODELS.items():
        file = folder / f"{name}.safetensors"
        if file.exists():
            continue
        tensors = _controlnet(seed).state_dict()
        ldm = ldm_names.controlnet(tensors)
        unfinished = file.with_suffix(".part")
        save_file(
            {f"control_model.{ldm[key]}": tensor.contiguous() for key, tensor in tensors.items()}, unfinished
        )
        unfinished.replace(file)


def _controlnet(seed: int) -> Any:
    from diffusers import ControlNetModel

    unet = random_nets.sd1()["unet"]
    with random_nets.seeded(seed):
        net = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        hint = net.controlnet_cond_embedding
        for convolution in (hint.conv_in, *hint.blocks, hint.conv_out):
            _draw(convolution, _HINT_GAIN)
        for convolution in (*net.controlnet_down_blocks, net.controlnet_mid_block):
            _draw(convolution, 1.0)  # training starts from zeros here, and then the net would do nothing
    return net


def _draw(convolution: nn.Conv2d, gain: float) -> None:
    """Weights that multiply the standard deviation of uncorrelated inputs by `gain`."""
    nn.init.normal_(convolution.weight, std=gain / convolution.weight[0].numel() ** 0.5)
