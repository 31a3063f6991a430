"""A base in one file with LDM's tensor names: SD1, SD2 and SDXL of any width, sizes read from the tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from controlstack import layout, weights
from controlstack.errors import ControlError
from controlstack.hosts.embedded import text_encoders

UNET, VAE = "model.diffusion_model.", "first_stage_model."
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
_SCALE = {True: 0.13025, False: 0.18215}
"""What SDXL's latents (True) or SD1's and SD2's are multiplied by. Source: Stability's configurations."""


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of a pipeline by diffusers' names, on the CPU, and how it was trained, in diffusers' words.

    Raises ControlError for a file that is no base.
    """
    header = weights.read_header(path)
    if (
        f"{UNET}input_blocks.0.0.weight" not in header.shapes
        or f"{VAE}decoder.conv_in.weight" not in header.shapes
    ):
        raise ControlError(
            f"The file {path.name} is no checkpoint",
            f"It lacks the tensors of a UNet ({UNET}…) or of a VAE ({VAE}…)",
            "Choose a complete SD1, SD2 or SDXL checkpoint",
        )
    parts = {"unet": _unet(header), **text_encoders.load(header)}
    parts["vae"] = _vae(header, _SCALE["text_encoder_2" in parts])
    return parts, _training(header)


def fill(kind: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """A diffusers model of this configuration that holds these tensors and no others."""
    with torch.device("meta"):
        model = kind(**config)
    model.load_state_dict(tensors, assign=True)
    return model


def _unet(header: weights.Header) -> Any:
    from diffusers import UNet2DConditionModel

    names = layout.unet_names(header.shapes, UNET)
    shapes = {name: header.shapes[source] for name, source in names.items()}
    config = layout.EncoderLayout.read(shapes, header.metadata).unet_config()
    config["sample_size"] = 64  # some of diffusers' pipelines insist on one; every job gives its own size
    tensors = weights.read_tensors(header, names.values(), dtype=torch.float32)
    return fill(UNet2DConditionModel, config, {name: tensors[source] for name, source in names.items()})


def _vae(header: weights.Header, scale: float) -> Any:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    names = [name for name in header.shapes if name.startswith(VAE)]
    config = {
        **vae_config({name.removeprefix(VAE): header.shapes[name] for name in names}),
        "scaling_factor": scale,
    }
    tensors = convert_ldm_vae_checkpoint(weights.read_tensors(header, names, dtype=torch.float32), config)
    return fill(AutoencoderKL, config, {name: t for name, t in tensors.items() if t is not None})


def vae_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Arguments of diffusers' `AutoencoderKL` for tensors with LDM's names, without their prefix."""
    levels = _count(shapes, "encoder.down.{}.block.0.conv1.weight")
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": tuple(
            shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)
        ),
        "layers_per_block": _count(shapes, "encoder.down.0.block.{}.conv1.weight"),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }


def _training(header: weights.Header) -> dict[str, Any]:
    """What the file says of its training: in Stability's ModelSpec metadata, or by markers of v-models.

    A prediction of eps unless it says v; noise up to zero SNR where it has a tensor `ztsnr`.
    """
    said = header.metadata.get("modelspec.prediction_type", "")
    is_v = said.startswith("v") or "v_pred" in header.shapes
    return {
        "prediction_type": "v_prediction" if is_v else "epsilon",
        "rescale_betas_zero_snr": "ztsnr" in header.shapes,
    }


def _count(shapes: Iterable[str], pattern: str) -> int:
    names, count = set(shapes), 0
    while pattern.format(count) in names:
        count += 1
    return count
