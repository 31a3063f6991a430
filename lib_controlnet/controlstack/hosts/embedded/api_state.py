"""/sdapi/v1: what the host is doing and how it is set, and what a picture says of itself."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, HTTPException
from modules import infotext_utils, script_callbacks, shared
from modules.api.api import encode_pil_to_base64, open_base64
from modules.images import read_info_from_image
from pydantic import BaseModel

from controlstack.hosts.embedded import preview
from controlstack.log import log

ROUTER = APIRouter(prefix="/sdapi/v1")


class PngInfo(BaseModel):
    """A request to read a picture's infotext."""

    image: str


@ROUTER.get("/progress")
def progress(skip_current_image: bool = False) -> dict[str, Any]:
    """How far the running job is, in time (s) and in steps, and the picture as it looks now."""
    state = shared.state
    done = share_done()
    left = (time.time() - state.time_start) * (1 / done - 1) if done and state.time_start else 0.0
    seen, latent = None, state.current_latent
    if latent is not None and not skip_current_image:
        seen = encode_pil_to_base64(preview.of_latents(latent, is_sdxl=shared.sd_model.is_sdxl)).decode()
    told = {"progress": done, "eta_relative": left, "state": state.dict(), "current_image": seen}
    return {**told, "textinfo": None}


def share_done() -> float:
    """How much of the running job is done, 0..1; 0 while there is none."""
    state = shared.state
    if not state.job_count:
        return 0.0
    step = state.sampling_step / state.sampling_steps if state.sampling_steps else 0.0
    return min((state.job_no + step) / max(state.job_count, 1), 1.0)


@ROUTER.post("/interrupt")
def interrupt() -> dict[str, Any]:
    """End the running job with what is there."""
    shared.state.interrupt()
    return {}


@ROUTER.post("/skip")
def skip() -> None:
    """End the running batch with what is there, and go on with the next."""
    shared.state.skip()


@ROUTER.get("/options")
def options() -> dict[str, Any]:
    """Every setting."""
    return shared.opts.dumps()


@ROUTER.post("/options")
def set_options(asked: dict[str, Any]) -> None:
    """Change settings until the host ends. Those it does not know are left alone: other hosts have more."""
    wanted = asked.get("sd_model_checkpoint")
    if wanted and not shared.sd_model.is_called(str(wanted)):
        raise HTTPException(
            422, f"model {wanted!r} not found; the embedded host paints with {shared.sd_model.name}"
        )
    known = {key: value for key, value in asked.items() if key in shared.opts.data_labels}
    for key in asked.keys() - known.keys():
        log.info("There is no setting called %r here; it was left alone.", key)
    for key, value in known.items():
        try:
            shared.opts.set(key, shared.sd_model.name if key == "sd_model_checkpoint" else value, is_api=True)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error


@ROUTER.post("/png-info")
def png_info(asked: PngInfo) -> dict[str, Any]:
    """The infotext of a picture, its other texts, and the infotext's parameters."""
    text, items = read_info_from_image(open_base64(asked.image))
    parameters: dict[str, Any] = infotext_utils.parse_generation_parameters(text) if text else {}
    script_callbacks.infotext_pasted_callback(text or "", parameters)
    return {"info": text or "", "items": items, "parameters": parameters}
