"""/sdapi/v1/txt2img and img2img: requests and answers as A1111's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import pydantic
from fastapi import APIRouter, HTTPException
from modules import processing, scripts
from modules.api.api import decode_base64_to_image, encode_pil_to_base64

from controlstack.hosts.embedded import jobs, samplers

ROUTER = APIRouter(prefix="/sdapi/v1")
_INTERNAL = {"sd_model", "outpath_samples", "do_not_save_samples", "do_not_save_grid", "overlay_images"}
_API: dict[str, Any] = {
    "sampler_index": (str, samplers.DEFAULT),
    "script_name": (str | None, None),
    "script_args": (list[Any], []),
    "send_images": (bool, True),
    "save_images": (bool, False),
    "alwayson_scripts": (dict[str, dict[str, Any]], {}),
    "depth_map": (str | None, None),
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


@ROUTER.post("/txt2img")
def txt2img(request: Txt2Img) -> dict[str, Any]:  # type: ignore[valid-type]
    """Pictures from prompts."""
    asked: dict[str, Any] = dict(request)
    job = processing.StableDiffusionProcessingTxt2Img
    return _answer(asked, _generate(asked, job, scripts.scripts_txt2img))


@ROUTER.post("/img2img")
def img2img(request: Img2Img) -> dict[str, Any]:  # type: ignore[valid-type]
    """Pictures from pictures, and inpainting."""
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
    given["sampler_name"] = asked["sampler_name"] or asked["sampler_index"]
    if samplers.find(given["sampler_name"]) is None:
        raise HTTPException(400, "Sampler not found")
    given["depth_map"] = decode_base64_to_image(asked["depth_map"]) if asked["depth_map"] else None
    args = _script_args(asked, runner)
    p = job(**given, do_not_save_samples=not asked["save_images"])
    p.is_api = True
    return jobs.run(p, runner, args)


def _script_args(asked: Mapping[str, Any], runner: scripts.ScriptRunner) -> tuple[Any, ...]:
    """The values of all scripts' arguments: the defaults, replaced by what was sent, as it was sent."""
    args = runner.default_args()
    if asked["script_name"]:
        titles = [script.title().lower() for script in runner.selectable_scripts]
        if asked["script_name"].lower() not in titles:
            raise HTTPException(422, f"Script '{asked['script_name']}' not found")
        args[0] = titles.index(asked["script_name"].lower()) + 1
        _place(args, runner.selectable_scripts[args[0] - 1], asked["script_args"])
    for title, given in asked["alwayson_scripts"].items():
        script = runner.script(title)
        if script is None:
            raise HTTPException(422, f"Script '{title}' not found")
        if not script.alwayson:
            raise HTTPException(422, "Cannot have a selectable script in the always on scripts params")
        _place(args, script, given.get("args") or [])
    return tuple(args)


def _place(args: list[Any], script: scripts.Script, values: Any) -> None:
    """Put values where the script finds them; those it has no place for are dropped, as A1111 does."""
    if not isinstance(values, list):
        raise HTTPException(422, f"The args of script '{script.title()}' are no list")
    first, end = int(script.args_from or 0), int(script.args_to or 0)
    values = values[: end - first]
    args[first : first + len(values)] = values


def _answer(asked: dict[str, Any], processed: processing.Processed) -> dict[str, Any]:
    pictures = [encode_pil_to_base64(p).decode() for p in processed.images] if asked["send_images"] else []
    return {"images": pictures, "parameters": asked, "info": processed.js()}
