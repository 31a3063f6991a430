"""The extension's own routes, under its name on the host, /controlnet or /controlstack: what is there to
choose from, and preprocessing on its own.

Whatever the caller can mend is answered with 422 and a sentence in `detail`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel, Field

from controlstack import control_types as types
from controlstack import embeddings, image, pose, preprocess, sources
from controlstack.errors import ControlError
from controlstack.hosts.webui import WebUI
from controlstack.log import log
from controlstack.preprocess import RESOLUTION, Preprocessor
from controlstack.unit import MAX_TEXT

API_VERSION = 3
MAX_IMAGES = 64
"""Most pictures, or poses, in one request."""

_EMBEDDERS = {
    *("clip_vision", "t2ia_style_clipvision", "revision_clipvision", "revision_ignore_prompt"),
    "ip-adapter-auto",
}
"""Preprocessors of sd-webui-controlnet that draw nothing, and that its `detect` refuses."""


class _Route(APIRoute):
    """A route whose callers read sentences."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def in_sentences(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                fault = error.errors()[0]
                where = next((part for part in fault["loc"][1:] if isinstance(part, str)), "The request")
                raise _unprocessable(ControlError(f"{where} cannot be read", fault["msg"])) from error
            except ControlError as error:
                raise _unprocessable(error) from error

        return in_sentences


def _unprocessable(error: ControlError) -> HTTPException:
    return HTTPException(422, _sentences(error))


def _sentences(error: ControlError) -> str:
    return str(error).removeprefix("ControlNet: ")


_MISTAKE = {
    "description": "A mistake of the caller's",
    "content": {
        "application/json": {"example": {"detail": "No image selected. Send controlnet_input_images."}}
    },
}
ROUTER = APIRouter(tags=["ControlNet"], route_class=_Route, responses={422: _MISTAKE})


async def _host(request: Request) -> WebUI:
    host: WebUI = request.app.state.controlstack
    return host


_HOST = Depends(_host)
_LOGIN = Depends(HTTPBasic())


def register(app: FastAPI, host: WebUI) -> None:
    """Add the routes to a host's app, behind its API's passwords where it has any."""
    app.state.controlstack = host
    passwords = host.flag("api_auth")
    app.include_router(
        ROUTER,
        prefix=f"/{host.name.lower()}",
        dependencies=[Depends(_guard(passwords))] if passwords else [],
    )


def _guard(passwords: str) -> Callable[..., None]:
    """Lets in who knows one of "user:password,user:password"."""
    known = [pair.encode() for pair in passwords.split(",")]

    def check(given: HTTPBasicCredentials = _LOGIN) -> None:
        said = f"{given.username}:{given.password}".encode()
        if not sum(secrets.compare_digest(said, pair) for pair in known):  # in equal time for all
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    return check


def _example(value: object) -> dict[int | str, dict[str, Any]]:
    """What an answer looks like, for the documentation."""
    return {200: {"content": {"application/json": {"example": value}}}}


@ROUTER.get("/version", responses=_example({"version": API_VERSION}))
def version() -> dict[str, int]:
    """The version of these routes."""
    return {"version": API_VERSION}


@ROUTER.get("/model_list", responses=_example({"model_list": ["control_v11p_sd15_canny [d14c016b]"]}))
def model_list(update: bool = True, host: WebUI = _HOST) -> dict[str, list[str]]:
    """The control models, each with a short hash. `update` looks at the folders again first."""
    if update:
        host.catalog.refresh()
    return {"model_list": host.catalog.names()}


_CANNY = {
    "model_free": False,
    "sliders": [
        {"name": "Resolution", "value": 512, "min": 64, "max": 2048, "step": 8},
        {"name": "Low Threshold", "value": 100, "min": 1, "max": 255, "step": 1},
        {"name": "High Threshold", "value": 200, "min": 1, "max": 255, "step": 1},
    ],
}


@ROUTER.get(
    "/module_list", responses=_example({"module_list": ["canny"], "module_detail": {"canny": _CANNY}})
)
def module_list(alias_names: bool = False, alias_name: bool = False, host: WebUI = _HOST) -> dict[str, Any]:
    """The preprocessors and their sliders, by name or, with `alias_names` (or `alias_name`), by label.

    The sliders stand for `processor_res`, `threshold_a` and `threshold_b`, in this order. Names and labels
    are both understood wherever a preprocessor is asked for. One that cannot run here, for want of a package
    or of weights that only its user may get, says so in `unavailable`, with the mend.
    """
    by_label = alias_names or alias_name
    detail = {p.label if by_label else p.name: _detail(p, host) for p in preprocess.everything()}
    return {"module_list": list(detail), "module_detail": detail}


def _detail(preprocessor: Preprocessor, host: WebUI) -> dict[str, Any]:
    own = [slider for slider in (preprocessor.a, preprocessor.b) if slider]
    # Clients take the first for the resolution, so it is there whenever another follows.
    first = preprocessor.resolution or (RESOLUTION if own else None)
    fault = preprocess.unavailable(preprocessor, host.cache.networks)
    return {
        "model_free": not preprocessor.needs_model,
        "sliders": [
            {"name": s.label, "value": s.value, "min": s.minimum, "max": s.maximum, "step": s.step}
            for s in (first, *own)
            if s
        ],
    } | ({"unavailable": _sentences(fault)} if fault else {})


_CANNY_TYPE = {
    "module_list": ["none", "canny", "invert (from white bg & black line)"],
    "model_list": ["None", "control_v11p_sd15_canny [d14c016b]"],
    "default_option": "canny",
    "default_model": "control_v11p_sd15_canny [d14c016b]",
}


@ROUTER.get("/control_types", responses=_example({"control_types": {"Canny": _CANNY_TYPE}}))
def control_types(host: WebUI = _HOST) -> dict[str, Any]:
    """The control types, "All" first: labels of their preprocessors, their models, and a pair to start."""
    return {
        "control_types": {
            one.name: {
                "module_list": [preprocessor.label for preprocessor in one.preprocessors],
                "model_list": list(one.models),
                "default_option": one.default_option.label,
                "default_model": one.default_model,
            }
            for one in types.everything(host.catalog.names())
        }
    }


@ROUTER.get("/settings", responses=_example({"control_net_unit_count": 3, "control_net_max_models_num": 3}))
def settings(host: WebUI = _HOST) -> dict[str, int]:
    """How many units the page shows; the second name is the older one of the same number."""
    count = int(host.option("control_net_unit_count", 3))
    return {"control_net_unit_count": count, "control_net_max_models_num": count}


_MEMORY = {"maps": 786432, "embeddings": 0, "networks": 29444406, "on_device": 0}


@ROUTER.get("/memory", responses=_example(_MEMORY))
def memory(host: WebUI = _HOST) -> dict[str, int]:
    """What preprocessors keep, in bytes: maps, embeddings, networks in main memory and on the device."""
    return host.cache.taken()


@ROUTER.delete("/memory", responses=_example(dict.fromkeys(_MEMORY, 0)))
def clear_memory(host: WebUI = _HOST) -> dict[str, int]:
    """Let go of all that preprocessors keep; nothing but time is lost."""
    with host.lock:
        host.cache.clear()
        return host.cache.taken()


class DetectRequest(BaseModel):
    """What to preprocess. Numbers may be strings; fields that do not exist are ignored."""

    controlnet_module: str | None = Field(
        "none", description="A preprocessor's name or label.", max_length=MAX_TEXT
    )
    controlnet_input_images: list[str | None] | None = Field(
        None, description=f"Pictures as base64 or data URIs, at most {MAX_IMAGES}."
    )
    controlnet_images: list[str | None] | None = Field(
        None, description="Another name of controlnet_input_images."
    )
    controlnet_processor_res: float | None = Field(-1, description="Pixels of the map's short side.")
    controlnet_threshold_a: float | None = Field(-1, description="The preprocessor's own first number.")
    controlnet_threshold_b: float | None = Field(-1, description="The preprocessor's own second number.")
    controlnet_masks: list[str | None] | None = Field(
        None, description="For each picture, a mask of its size; white is masked."
    )
    low_vram: bool | None = Field(False, description="Let go of the preprocessor's network afterwards.")


@ROUTER.post("/detect", responses=_example({"images": ["iVBORw0KGgo..."], "info": "Success"}))
def detect(asked: DetectRequest, host: WebUI = _HOST) -> dict[str, Any]:
    """Run a preprocessor on pictures. The maps come back as PNG, in base64.

    A number that is -1 or out of its slider's range becomes the slider's default. In the map of an inpainting
    preprocessor alpha is 255 where the picture stays and 128 where it is repainted. Preprocessors that draw
    at random do so with seed 0. Those that find figures also send `poses`, which
    /render_openpose_json draws. Those that draw nothing, such as CLIP's networks, send `tensor` instead of
    `images`: for each picture what a unit takes as `ipadapter_input`.
    """
    preprocessor = _preprocessor(asked.controlnet_module or "none")
    images = asked.controlnet_input_images or asked.controlnet_images or []
    if not any(images):
        raise ControlError("No image selected", fix="Send controlnet_input_images")
    if len(images) > MAX_IMAGES:
        raise _too_many("pictures")
    pairs = zip_longest(images, _masks(asked, preprocessor, len(images)))
    with host.lock:
        found = list(_found(asked, preprocessor, host, pairs))
        if asked.low_vram:
            host.cache.networks.unload()
    return {name: [one[name] for one in found] for name in found[0]} | {"info": "Success"}


def _preprocessor(module: str) -> Preprocessor:
    if module.strip().lower() in _EMBEDDERS:
        raise ControlError("Module not supported", f"{module} draws no map", "Use it in a unit")
    try:
        return preprocess.find(module)
    except ControlError as error:
        raise ControlError("Module not available", error.what, error.fix) from error


def _masks(asked: DetectRequest, preprocessor: Preprocessor, images: int) -> list[str | None]:
    masks = asked.controlnet_masks or []
    given = sum(bool(mask) for mask in masks)
    if preprocessor.requires_mask and given != images:
        raise ControlError(
            f"Preprocessor {asked.controlnet_module} requires `controlnet_masks` param",
            f"It got {given} for {images} pictures",
            "Send a mask for each picture",
        )
    if given and not preprocessor.accepts_mask:
        log.warning("/controlnet/detect: %s takes no mask; it is ignored.", preprocessor.name)
        return []
    return masks


def _found(
    asked: DetectRequest,
    preprocessor: Preprocessor,
    host: WebUI,
    pairs: Iterable[tuple[str | None, str | None]],
) -> Iterator[dict[str, object]]:
    """What is answered for each picture and mask, one at a time: the pictures need not fit into memory
    together.
    """
    numbers = (asked.controlnet_processor_res, asked.controlnet_threshold_a, asked.controlnet_threshold_b)
    resolution, a, b = (-1 if number is None else number for number in numbers)
    pixels = 0
    for index, (one, mask) in enumerate(pairs):
        with _naming(f"Image {index}"):
            found = image.inputs(one, mask)
            if not found:
                raise ControlError("It is empty", fix="Send a picture")
            picture = found[0]
            pixels += picture.rgb[..., 0].size
            if pixels > image.MAX_UNIT_PIXELS:
                raise ControlError("The pictures are too large together", fix="Send fewer at a time")
            own_mask = sources.empty_mask(picture) if picture.mask is None else picture.mask
            ask = preprocessor.ask(resolution, a, b, mask=own_mask)
            if preprocessor.embed:
                yield {"tensor": embeddings.write(host.cache.embed(preprocessor, picture.rgb, ask))}
                continue
            answer: dict[str, object] = {}
            if preprocessor.pose:
                answer["poses"] = pose.write(host.cache.pose(preprocessor, picture.rgb, ask))
            detected = host.cache.run(preprocessor, picture.rgb, ask)
        yield {"images": image.encode_png(image.shown(detected)), **answer}


def _too_many(what: str) -> ControlError:
    return ControlError(f"There are too many {what}", fix=f"Send at most {MAX_IMAGES} at a time")


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Errors inside name `what` first."""
    try:
        yield
    except ControlError as error:
        raise ControlError(f"{what}: {error.what}", error.why, error.fix) from error


_POSE = {
    "people": [
        {
            "pose_keypoints_2d": [0.5, 0.2, 1.0, 0.5, 0.3, 1.0, *(16 * [0.0, 0.0, 0.0])],
        }
    ],
    "canvas_width": 512,
    "canvas_height": 768,
}


@ROUTER.post(
    "/render_openpose_json",
    responses=_example({"images": ["iVBORw0KGgo..."], "info": "Success"}),
    openapi_extra={"requestBody": {"content": {"application/json": {"example": [_POSE]}}}},
)
def render_openpose_json(poses: list[dict[str, Any]], host: WebUI = _HOST) -> dict[str, Any]:
    """Draw poses. Each picture comes back as PNG, in base64.

    The points of `people` are OpenPose's: 18 of the body, 21 of a hand, any of the face, each x, y,
    confidence, all in px or all as shares of the canvas. Confidence 0 means missing. `animals` are lists of
    17 such points in AP-10K's order.
    """
    if not poses:
        return {"info": "No pose data detected."}
    if len(poses) > MAX_IMAGES:
        raise _too_many("poses")
    parsed = []
    for index, value in enumerate(poses):
        with _naming(f"Pose {index}"):
            parsed.append(pose.parse(value))
    if sum(one.width * one.height for one in parsed) > image.MAX_UNIT_PIXELS:
        raise ControlError("The canvases are too large together", fix="Send fewer poses at a time")
    with host.lock:
        return {"images": [image.encode_png(pose.draw(one)) for one in parsed], "info": "Success"}
