"""Where and in which precision the host computes."""

from __future__ import annotations

import gc

import torch
from modules.shared_cmd_options import cmd_opts

from controlstack.hosts.embedded import precision

cpu = torch.device("cpu")
device = torch.device(cmd_opts.device)
dtype = dtype_unet = precision.DTYPES[cmd_opts.dtype] if cmd_opts.dtype else precision.usual(device)
dtype_vae = torch.float32


def get_optimal_device() -> torch.device:
    return device


def get_device_for(task: str) -> torch.device:
    return device


def torch_gc() -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
