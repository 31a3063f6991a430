"""The trained net as files: LDM's names in one, which every WebUI reads, and diffusers' folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from controlstack.hosts.embedded import ldm_names
from controlstack.hosts.embedded.checkpoint import Checkpoint
from controlstack.hosts.embedded.precision import DTYPES
from controlstack.layout import GROUPS, HEADS
from controlstack.train.files import whole

PREFIX = "control_model."


def save(net: Any, file: Path, precision: str, about: Mapping[str, str]) -> None:
    """Write the file, with LDM's names, and beside it a diffusers folder of the same name.

    about: what the metadata of both files says beside heads and groups
    """
    metadata = {"format": "pt", **structure(net), **about}
    tensors = {
        key: tensor.detach().to("cpu", DTYPES[precision]).contiguous()
        for key, tensor in net.state_dict().items()
    }
    ldm = ldm_names.controlnet(tensors)
    with whole(file) as part:
        save_file({PREFIX + ldm[key]: tensor for key, tensor in tensors.items()}, part, metadata)
    folder = file.with_suffix("")
    with whole(folder / "diffusion_pytorch_model.safetensors") as part:
        save_file(tensors, part, metadata)
    net.save_config(folder)


def structure(net: Any) -> dict[str, str]:
    """What the shapes of a net's tensors cannot tell, as `layout` reads it."""
    heads = net.config.num_attention_heads or net.config.attention_head_dim
    levels = len(net.config.block_out_channels)
    listed = [heads] * levels if isinstance(heads, int) else list(heads)
    return {HEADS: json.dumps(listed), GROUPS: str(net.config.norm_num_groups)}


def fingerprint(base: Checkpoint) -> str:
    """Which base: sha256 of its file, as WebUIs show it; of one without a file, of the UNet's numbers."""
    digest = sha256()
    if base.path is not None and base.path.is_file():
        with base.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    for name, tensor in sorted(base.unet.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
