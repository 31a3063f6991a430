"""Bases larger than the graphics card's memory: accelerate moves parts there while they compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from controlstack.errors import ControlError
from controlstack.hosts.embedded import pipeline, samplers
from controlstack.hosts.embedded.checkpoint import Checkpoint
from controlstack.log import log

WHOLE_NETS, SINGLE_LAYERS = "enable_model_cpu_offload", "enable_sequential_cpu_offload"
"""diffusers' two ways: one net at a time, or one layer at a time, which is far slower and needs least."""


def place(model: Checkpoint, device: torch.device, dtype: torch.dtype, way: str | None) -> Checkpoint:
    """Ready the base for computing on the device: all of it there, or moved there as it is needed.

    Only a CUDA device has memory of its own to be short of; elsewhere `way` changes nothing and says so.
    """
    if way is None:
        return model.to(device, dtype)
    if device.type != "cuda":
        log.warning("--lowvram and --medvram spare a CUDA card's memory; on %s they do nothing.", device.type)
        return model.to(device, dtype)
    return offload(model, device, dtype, way)


def offload(model: Checkpoint, device: torch.device, dtype: torch.dtype, way: str) -> Checkpoint:
    """Hooks on the nets themselves, so that every later pipeline of the base works through them."""
    model.prepare(dtype)
    model.device = device
    pipe: Any = pipeline.build(model, samplers.DEFAULT)
    try:
        getattr(pipe, way)(device=device)
    except ImportError as error:
        raise ControlError(
            "--lowvram and --medvram need the package accelerate",
            str(error),
            "Install it: pip install accelerate",
        ) from error
    return model


def kept(net: Any, name: str) -> Tensor:
    """A parameter of a net whose layers are brought to the card one at a time, from where accelerate keeps
    it meanwhile."""
    layer, _, own = name.rpartition(".")
    hook = net.get_submodule(layer)._hf_hook
    maps = (getattr(one, "weights_map", None) for one in getattr(hook, "hooks", [hook]))
    return next(found for found in maps if found is not None)[own]
