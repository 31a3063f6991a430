"""/sdapi/v1: what there is to choose from."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from fastapi import APIRouter
from modules import devices, scripts, shared
from modules.processing_txt2img import LATENT_UPSCALERS, PIXEL_UPSCALERS

from controlstack.hosts.embedded import memory, samplers

ROUTER = APIRouter(prefix="/sdapi/v1")


@ROUTER.get("/samplers")
def list_samplers() -> list[dict[str, Any]]:
    return [
        {"name": name, "aliases": sampler.aliases, "options": dict(sampler.options)}
        for name, sampler in samplers.SAMPLERS.items()
    ]


@ROUTER.get("/schedulers")
def list_schedulers() -> list[dict[str, Any]]:
    return [
        {
            "name": schedule.name,
            "label": label,
            "aliases": schedule.aliases or None,
            "default_rho": schedule.rho,
            "need_inner_model": False,
        }
        for label, schedule in samplers.SCHEDULES.items()
    ]


@ROUTER.get("/sd-models")
def list_models() -> list[dict[str, Any]]:
    info = shared.sd_model.sd_checkpoint_info
    model = {"title": info.name, "model_name": info.model_name, "hash": None, "sha256": None}
    return [{**model, "filename": info.filename, "config": None}]


@ROUTER.post("/refresh-checkpoints")
def refresh_checkpoints() -> None:
    """There is one checkpoint, that of the command line."""


@ROUTER.get("/upscalers")
def list_upscalers() -> list[dict[str, Any]]:
    nothing = {"model_name": None, "model_path": None, "model_url": None}
    return [{"name": name, **nothing, "scale": 4} for name in PIXEL_UPSCALERS]


@ROUTER.get("/latent-upscale-modes")
def list_latent_upscalers() -> list[dict[str, str]]:
    return [{"name": name} for name in LATENT_UPSCALERS]


def _nothing() -> list[Any]:
    """A kind of file that the embedded host does not use."""
    return []


for _kind in (
    *("sd-vae", "sd-modules", "hypernetworks", "loras"),
    *("face-restorers", "realesrgan-models", "prompt-styles"),
):
    ROUTER.add_api_route(f"/{_kind}", _nothing, methods=["GET"], name=_kind, operation_id=_kind)


@ROUTER.get("/embeddings")
def list_embeddings() -> dict[str, dict[str, Any]]:
    return {"loaded": {}, "skipped": {}}


@ROUTER.get("/memory")
def list_memory() -> dict[str, Any]:
    """Bytes in use and free."""
    return {"ram": memory.ram(), "cuda": memory.cuda(devices.device) if torch.cuda.is_available() else {}}


@ROUTER.get("/scripts")
def list_scripts() -> dict[str, list[str]]:
    """The titles of all scripts, in lower case."""
    return {
        "txt2img": list(scripts.scripts_txt2img.title_map),
        "img2img": list(scripts.scripts_img2img.title_map),
    }


@ROUTER.get("/script-info")
def list_script_info() -> list[dict[str, Any]]:
    """What each script takes, in the order of its arguments."""
    runners = (scripts.scripts_txt2img, scripts.scripts_img2img)
    return [_script_info(runner, script) for runner in runners for script in runner.scripts]


def _script_info(runner: scripts.ScriptRunner, script: scripts.Script) -> dict[str, Any]:
    components = runner.inputs[script.args_from : script.args_to]
    return {
        "name": script.title().lower(),
        "is_alwayson": script.alwayson,
        "is_img2img": script.is_img2img,
        "args": [_argument(component) for component in components],
    }


def _argument(component: Any) -> dict[str, Any]:
    told = {key: getattr(component, key, None) for key in ("minimum", "maximum", "step")}
    choices = getattr(component, "choices", None)
    if choices is not None:  # gradio 4 and later: pairs of what is shown and what it stands for
        choices = [choice[-1] if isinstance(choice, (tuple, list)) else choice for choice in choices]
    told |= {"label": getattr(component, "label", None) or "", "value": component.value, "choices": choices}
    plain: dict[str, Any] = json.loads(json.dumps(told, default=_plain))
    return plain


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
