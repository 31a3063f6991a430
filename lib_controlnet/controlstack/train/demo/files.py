"""The demo's files: a base in one file with LDM's names, the yaml that WebUIs read beside it, ControlNets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from controlstack import weights
from controlstack.hosts.embedded import ldm_names
from controlstack.hosts.embedded.demo_models import BASE, CONTROLNETS, FOLDER, controlnet
from controlstack.layout import HEADS
from controlstack.train.demo import base, vae

READER = f"{BASE}-reader"
TEXT_FOLDER = f"{BASE}-text"
"""Beside the base: what LDM's text encoder reads, CLIP's vocabulary and a small configuration."""
_TRAINED_ON = "synthetic scenes of shaded solids; see controlstack.train.demo"


def save_base(folder: Path, unet: Any, autoencoder: Any, text_encoder: Any) -> Path:
    """Write the base and its yaml, in halves, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "model.diffusion_model.": _named(unet.state_dict(), ldm_names.unet),
        "first_stage_model.": _convolved(_named(autoencoder.state_dict(), ldm_names.vae)),
        "cond_stage_model.transformer.": _clip(text_encoder.state_dict()),
    }
    tensors = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}
    file = folder / f"{BASE}.safetensors"
    _save(file, tensors, {"modelspec.prediction_type": "v", "trained on": _TRAINED_ON})
    (folder / f"{BASE}.yaml").write_text(yaml(TEXT_FOLDER), encoding="utf-8")
    return file


def save_controlnet(folder: Path, kind: str, tensors: Mapping[str, Tensor]) -> Path:
    """Write a ControlNet with LDM's names, in halves."""
    (folder / CONTROLNETS).mkdir(parents=True, exist_ok=True)
    file = folder / CONTROLNETS / f"{controlnet(kind)}.safetensors"
    named = _named(tensors, ldm_names.controlnet)
    said = {"trained on": f"{_TRAINED_ON}; hints: {kind}"}
    _save(file, {f"control_model.{name}": tensor for name, tensor in named.items()}, said)
    return file


def save_reader(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write the net of `readouts`."""
    file = folder / f"{READER}.safetensors"
    _save(file, tensors, {"trained on": _TRAINED_ON})
    return file


def install(webui: Path, folder: Path = FOLDER) -> list[Path]:
    """Copy the models into a WebUI's folder, with a yaml that finds the text encoder from wherever it starts.

    Returns what was written.
    """
    bases, controls = webui / "models" / "Stable-diffusion", webui / "models" / "ControlNet"
    for place in (bases, controls):
        place.mkdir(parents=True, exist_ok=True)
    source = folder / f"{BASE}.safetensors"
    written = [
        Path(shutil.copy(file, controls)) for file in sorted((folder / CONTROLNETS).glob("*.safetensors"))
    ]
    text = save_text_folder(bases, source).resolve()
    config = bases / f"{BASE}.yaml"
    config.write_text(yaml(str(text)), encoding="utf-8")
    return [*written, text, config, Path(shutil.copy(source, bases))]


def save_text_folder(folder: Path, source: Path) -> Path:
    """Write the tokenizer, the text encoder's configuration and its weights for transformers' CLIP classes.

    source: the base; some WebUIs want the weights in the folder too
    """
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig

    from controlstack.hosts.embedded import tokenizer

    place = folder / TEXT_FOLDER
    place.mkdir(parents=True, exist_ok=True)
    tokenizer.write(place)
    CLIPTextConfig(**base.text_config(), architectures=["CLIPTextModel"]).save_pretrained(str(place))
    prefix = "cond_stage_model.transformer."
    header = weights.read_header(source)
    names = [name for name in header.shapes if name.startswith(prefix)]
    tensors = weights.read_tensors(header, names, dtype=torch.float32)
    save_file(
        {n.removeprefix(prefix): t for n, t in tensors.items()}, place / "model.safetensors", {"format": "pt"}
    )
    return place


def yaml(text_folder: str) -> str:
    """What LDM builds the base from; `text_folder` is found from where the WebUI was started, or absolute."""
    factors = [width // base.WIDTHS[0] for width in base.WIDTHS]
    attended = [2**level for level, does in enumerate(base.ATTENDED) if does]
    widths = [width // vae.WIDTHS[0] for width in vae.WIDTHS]
    return _YAML.format(
        width=base.WIDTHS[0],
        factors=factors,
        attended=attended,
        head=base.HEAD,
        text=base.TEXT,
        scale=vae.SCALE,
        vae_width=vae.WIDTHS[0],
        vae_factors=widths,
        folder=json.dumps(text_folder),
    )


def _named(tensors: Mapping[str, Tensor], rename: Any) -> dict[str, Tensor]:
    names = rename(tensors)
    return {names[name]: tensor for name, tensor in tensors.items()}


def _convolved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LDM's VAE attends by 1×1 convolutions."""
    return {
        name: tensor[..., None, None] if ".attn_1." in name and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }


def _clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of CLIPTextModel before transformers 5.6, which WebUIs have."""
    return {
        f"text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in tensors.items()
        if not name.endswith("position_ids")
    }


def _save(file: Path, tensors: Mapping[str, Tensor], said: Mapping[str, str]) -> None:
    from safetensors.torch import save_file

    halves = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in tensors.items()}
    unfinished = file.with_suffix(".part")
    save_file(halves, unfinished, {HEADS: json.dumps(base.HEADS), **said})
    unfinished.replace(file)


_YAML = """\
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    parameterization: "v"
    first_stage_key: "jpg"
    cond_stage_key: "txt"
    image_size: 16
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    monitor: val/simple_loss_ema
    scale_factor: {scale}
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 16
        in_channels: 4
        out_channels: 4
        model_channels: {width}
        attention_resolutions: {attended}
        num_res_blocks: 2
        channel_mult: {factors}
        num_head_channels: {head}
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: {text}
        use_checkpoint: false
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: 128
          in_channels: 3
          out_ch: 3
          ch: {vae_width}
          ch_mult: {vae_factors}
          num_res_blocks: 1
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: {folder}
"""
