"""Random bases for the tests of the embedded host, written as LDM files and as diffusers folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from controlstack.hosts.embedded import ldm_names
from controlstack.hosts.embedded.checkpoint import TRAINED

DECODER = {"conv_norm_out": "out.0", "conv_out": "out.2"}
VAE = (
    ("conv_norm_out", "norm_out"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0", "mid.attn_1"),
    ("conv_shortcut", "nin_shortcut"),
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
    ("downsamplers.0", "downsample"),
    ("upsamplers.0", "upsample"),
    ("resnets", "block"),
    ("down_blocks", "down"),
)
OPEN_CLIP = (
    ("embeddings.token_embedding.", "token_embedding."),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm.", "ln_final."),
    ("encoder.layers.", "transformer.resblocks."),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
    ("self_attn.", "attn."),
)


def write_ldm(parts: dict[str, Any], path: Path, metadata: dict[str, str] | None = None) -> Path:
    """Save the parts of a random SD1, SD2 or SDXL pipeline as one file with LDM's names."""
    tensors = {f"model.diffusion_model.{n}": t for n, t in ldm_unet(parts["unet"].state_dict()).items()}
    tensors |= {f"first_stage_model.{n}": t for n, t in ldm_vae(parts["vae"]).items()}
    if "text_encoder_2" in parts:
        tensors |= behind("conditioner.embedders.0.transformer.", clip(parts["text_encoder"]))
        tensors |= behind("conditioner.embedders.1.model.", open_clip(parts["text_encoder_2"]))
    elif parts["unet"].config.use_linear_projection:
        tensors |= behind("cond_stage_model.model.", open_clip(parts["text_encoder"], spare_layer=True))
    else:
        tensors |= behind("cond_stage_model.transformer.", clip(parts["text_encoder"]))
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata=metadata)
    return path


def write_folder(parts: dict[str, Any], path: Path, **schedule: Any) -> Path:
    """Save them as diffusers does."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    scheduler = DDIMScheduler.from_config({**TRAINED, **schedule})
    if "text_encoder_2" in parts:
        pipe = StableDiffusionXLPipeline(**parts, scheduler=scheduler, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(
            **parts,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.save_pretrained(path)
    return path


def behind(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def ldm_unet(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    encoder = [n for n in tensors if not n.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))]
    names = ldm_names.controlnet(encoder)
    per_level = len({n.split(".")[3] for n in tensors if n.startswith("up_blocks.0.resnets.")})
    for name in tensors.keys() - names.keys():
        names[name] = decoder_name(name, per_level, tensors)
    return {names[name]: tensor for name, tensor in tensors.items()}


def decoder_name(name: str, per_level: int, tensors: dict[str, Tensor]) -> str:
    head, _, kind = name.rpartition(".")
    if head in DECODER:
        return f"{DECODER[head]}.{kind}"
    level, part, index, rest = re.fullmatch(r"up_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name).groups()
    first = int(level) * per_level
    if part == "resnets":  # as in the encoder, which is tested on its own
        return f"output_blocks.{first + int(index)}.0." + ldm_names.controlnet(
            ["down_blocks.0.resnets.0.conv1.weight", f"down_blocks.0.resnets.0.{rest}"]
        )[f"down_blocks.0.resnets.0.{rest}"].removeprefix("input_blocks.1.0.")
    if part == "attentions":
        return f"output_blocks.{first + int(index)}.1.{rest}"
    attends = any(n.startswith(f"up_blocks.{level}.attentions.") for n in tensors)
    return f"output_blocks.{first + per_level - 1}.{1 + attends}.{rest}"


def ldm_vae(vae: Any) -> dict[str, Tensor]:
    levels = len(vae.config.block_out_channels)
    found = {}
    for name, tensor in vae.state_dict().items():
        ldm = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
        for ours, theirs in VAE:
            ldm = ldm.replace(ours, theirs)
        # LDM's attention is made of 1×1 convolutions.
        is_projection = ".attn_1." in ldm and ".norm." not in ldm and tensor.ndim == 2
        found[ldm] = tensor[:, :, None, None] if is_projection else tensor
    return found


def clip(encoder: Any) -> dict[str, Tensor]:
    """Named as transformers did before 5.6, and as every checkpoint is."""
    return {"text_model." + n.removeprefix("text_model."): t for n, t in encoder.state_dict().items()}


def open_clip(encoder: Any, *, spare_layer: bool = False) -> dict[str, Tensor]:
    """OpenCLIP's names: q, k and v in one tensor; with the last layer that SD2 carries and never uses."""
    tensors = {n.removeprefix("text_model."): t for n, t in encoder.state_dict().items()}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T
        elif match := re.search(r"\.([qkv])_proj\.(weight|bias)", name):
            head = renamed(name[: match.start()] + ".")
            same = [tensors[f"{name[: match.start()]}.{part}_proj.{match[2]}"] for part in "qkv"]
            found[f"{head}in_proj_{match[2]}"] = torch.cat(same)
        else:
            found[renamed(name)] = tensor
    if spare_layer:
        layers = encoder.config.num_hidden_layers
        found |= {
            n.replace(".resblocks.0.", f".resblocks.{layers}."): t + 1
            for n, t in found.items()
            if ".resblocks.0." in n
        }
    return found


def renamed(name: str) -> str:
    for ours, theirs in OPEN_CLIP:
        name = name.replace(ours, theirs)
    return name
