"""A1111's HTTP API on 127.0.0.1, and a page that says what this is."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import pydantic
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from modules import call_queue, processing, script_callbacks, scripts, shared
from modules.api.api import decode_base64_to_image, encode_pil_to_base64
from modules.paths import default_output_dir

from controlstack.errors import ControlError
from controlstack.hosts.embedded import page, samplers

HOST = "127.0.0.1"
_INTERNAL = {"sd_model", "outpath_samples", "do_not_save_samples", "do_not_save_grid", "overlay_images"}
_API: dict[str, Any] = {
    "sampler_index": (str, samplers.DEFAULT),
    "script_name": (str | None, None),
    "send_images": (bool, True),
    "save_images": (bool, False),
    "alwayson_scripts": (dict[str, Any], {}),
}
_PICTURES: dict[str, Any] = {
    "init_images": (list[str] | None, None),
    "mask": (str | None, None),
    "include_init_images": (bool, False),
}


def _request(name: str, job: type[Any], **more: Any) -> type[pydantic.BaseModel]:
    """The request for a kind of job: its constructor's fields and the API's own. Unknown ones are ignored."""
    types = get_type_hints(job)
    taken = [f for f in fields(job) if f.init and f.name not in _INTERNAL]
    own: dict[str, Any] = {f.name: (types[f.name], {} if f.default is MISSING else f.default) for f in taken}
    return pydantic.create_model(name, **{**own, **_API, **more})


Txt2Img = _request("Txt2Img", processing.StableDiffusionProcessingTxt2Img)
Img2Img = _request("Img2Img", processing.StableDiffusionProcessingImg2Img, **_PICTURES)


def create_app() -> FastAPI:
    """The host's routes, and those that extensions add to them."""
    app = FastAPI(title="ControlStack's embedded WebUI")
    for kind in (HTTPException, ControlError, Exception):
        app.add_exception_handler(kind, _failure)
    app.add_api_route("/", _page, include_in_schema=False, response_class=HTMLResponse)
    app.mount("/outputs", StaticFiles(directory=default_output_dir, check_dir=False))
    app.add_api_route("/sdapi/v1/txt2img", _txt2img, methods=["POST"])
    app.add_api_route("/sdapi/v1/img2img", _img2img, methods=["POST"])
    app.add_api_route("/sdapi/v1/interrupt", _interrupt, methods=["POST"])
    for name, answer in (
        ("progress", _progress),
        ("samplers", _samplers),
        ("sd-models", _models),
        ("scripts", _scripts),
        ("options", _options),
    ):
        app.add_api_route(f"/sdapi/v1/{name}", answer, methods=["GET"])
    script_callbacks.app_started_callback(None, app)
    return app


def create_server(port: int) -> uvicorn.Server:
    """The server, ready to `run`; Ctrl-C ends it when it runs in the main thread."""
    return uvicorn.Server(uvicorn.Config(create_app(), host=HOST, port=port, log_level="warning"))


def free_port(first: int) -> int:
    """The first port from `first` on that nobody listens on."""
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"No port from {first} to {first + 99} is free")


def _txt2img(request: Txt2Img) -> dict[str, Any]:  # type: ignore[valid-type]
    asked: dict[str, Any] = dict(request)
    return _answer(
        asked, _generate(asked, processing.StableDiffusionProcessingTxt2Img, scripts.scripts_txt2img)
    )


def _img2img(request: Img2Img) -> dict[str, Any]:  # type: ignore[valid-type]
    asked: dict[str, Any] = dict(request)
    if not asked["init_images"]:
        raise HTTPException(404, "Init image not found")
    pictures = {
        "init_images": [decode_base64_to_image(picture) for picture in asked["init_images"]],
        "mask": decode_base64_to_image(asked["mask"]) if asked["mask"] else None,
    }
    job = processing.StableDiffusionProcessingImg2Img
    processed = _generate({**asked, **pictures}, job, scripts.scripts_img2img)
    if not asked["include_init_images"]:
        asked |= {"init_images": None, "mask": None}
    return _answer(asked, processed)


def _generate(asked: Mapping[str, Any], job: type[Any], runner: scripts.ScriptRunner) -> processing.Processed:
    given = {f.name: asked[f.name] for f in fields(job) if f.init and f.name in asked}
    given["sampler_name"] = samplers.find(asked["sampler_name"] or asked["sampler_index"])
    if given["sampler_name"] is None:
        raise HTTPException(400, "Sampler not found")
    args = _script_args(asked, runner)
    with call_queue.queue_lock, closing(job(**given, do_not_save_samples=not asked["save_images"])) as p:
        p.is_api = True
        shared.state.begin(runner.job)
        try:
            p.scripts, p.script_args = runner, args
            return processing.process_images(p)
        finally:
            shared.state.end()


def _script_args(asked: Mapping[str, Any], runner: scripts.ScriptRunner) -> tuple[Any, ...]:
    """The values of all scripts' arguments: the defaults, replaced by what was sent, as it was sent."""
    if asked["script_name"]:
        raise HTTPException(422, f"Script '{asked['script_name']}' not found")
    args = runner.default_args()
    for title, given in asked["alwayson_scripts"].items():
        script = runner.title_map.get(title.lower())
        if script is None:
            raise HTTPException(422, f"Script '{title}' not found")
        if not script.alwayson:
            raise HTTPException(422, "Cannot have a selectable script in the always on scripts params")
        values = given.get("args", [])[: script.args_to - script.args_from]
        args[script.args_from : script.args_from + len(values)] = values
    return tuple(args)


def _answer(asked: dict[str, Any], processed: processing.Processed) -> dict[str, Any]:
    pictures = [encode_pil_to_base64(p).decode() for p in processed.images] if asked["send_images"] else []
    return {"images": pictures, "parameters": asked, "info": processed.js()}


def _failure(_: Request, error: Exception) -> JSONResponse:
    """Any failure in the shape that A1111's clients know."""
    told = vars(error)
    content = {
        "error": type(error).__name__,
        "detail": told.get("detail", ""),
        "body": told.get("body", ""),
        "errors": str(error),
    }
    return JSONResponse(content, status_code=told.get("status_code", 500))


def _interrupt() -> dict[str, Any]:
    shared.state.interrupt()
    return {}


def _progress() -> dict[str, Any]:
    state = shared.state
    if state.job_count == 0:
        done, left = 0.0, 0.0
    else:
        step = state.sampling_step / state.sampling_steps if state.sampling_steps else 0.0
        done = min((state.job_no + step) / max(state.job_count, 1), 1.0)
        left = (time.time() - state.time_start) * (1 / done - 1) if done else 0.0
    return {
        "progress": done,
        "eta_relative": left,
        "state": state.dict(),
        "current_image": None,
        "textinfo": None,
    }


def _samplers() -> list[dict[str, Any]]:
    return [{"name": name, "aliases": [], "options": {}} for name in samplers.SAMPLERS]


def _models() -> list[dict[str, Any]]:
    info = shared.sd_model.sd_checkpoint_info
    model = {"title": info.name, "model_name": info.model_name, "hash": None, "sha256": None}
    return [{**model, "filename": info.filename, "config": None}]


def _scripts() -> dict[str, list[str]]:
    return {
        "txt2img": list(scripts.scripts_txt2img.title_map),
        "img2img": list(scripts.scripts_img2img.title_map),
    }


def _options() -> dict[str, Any]:
    return {**{key: info.default for key, info in shared.opts.data_labels.items()}, **shared.opts.data}


def _page() -> str:
    return page.html(shared.sd_model.name, default_output_dir)
