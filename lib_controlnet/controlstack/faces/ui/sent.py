"""A unit as the HTTP API takes it: what will be sent, and what a preset keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from controlstack import image
from controlstack.curve import Curve
from controlstack.unit import ControlNetUnit, InputMode

PAGE_ONLY = frozenset(
    {
        *(
            "is_ui",
            "input_mode",
            "batch_images",
            "output_dir",
            "loopback",
            "batch_mask_dir",
            "animatediff_batch",
        ),
        *("batch_modifiers", "batch_image_files", "batch_keyframe_idx"),
    }
)
"""Fields that the API does not take."""
PICTURES = ("image", "mask", "effective_region_mask")


def as_api(unit: ControlNetUnit, *, pictures: bool) -> dict[str, Any]:
    """A parsed unit's fields where they are not the default, and always whether it is enabled.

    pictures: as base64; else they are left out
    """
    default = vars(ControlNetUnit())
    told: dict[str, Any] = {"enabled": bool(unit.enabled)}
    for name, value in vars(unit).items():
        if name in PICTURES:
            if pictures and value is not None:
                told[name] = _pictures(value)
        elif name not in PAGE_ONLY and name != "enabled" and value != default[name]:
            told[name] = _plain(value)
    return told


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return str(value) if isinstance(value, (str, Curve)) else value


def _pictures(value: Any) -> Any:
    """One picture as base64; several as the API takes them."""
    if isinstance(value, np.ndarray):
        return image.encode_png(value)
    if isinstance(value, Mapping):
        return {key: _pictures(one) for key, one in value.items()}
    return [_pictures(one) for one in value] if isinstance(value, list) else value


def shortened(told: Mapping[str, Any]) -> dict[str, Any]:
    """The same for people to read: a picture stands as how long its base64 is."""
    return {name: _short(value) if name in PICTURES else value for name, value in told.items()}


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(one) for one in value]
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    return f"(base64 of a PNG, {len(value)} letters)"


def note(unit: ControlNetUnit) -> str:
    """What of a unit the API cannot be sent, "" for nothing."""
    if unit.input_mode is InputMode.BATCH:
        return "A batch is the page's: the API takes one picture for each request."
    if unit.input_mode is InputMode.MERGE:
        return "Several pictures in one unit are the page's, but for preprocessors of IP-Adapters."
    return ""


def as_json(told: Mapping[str, Any]) -> str:
    """For people to read."""
    return json.dumps(told, indent=2, ensure_ascii=False)


def _request(told: Mapping[str, Any], title: str, tab: str) -> dict[str, Any]:
    start = {"init_images": ["(base64 of a picture)"]} if tab == "img2img" else {}
    return {"prompt": "", **start, "alwayson_scripts": {title: {"args": [told]}}}


def as_curl(told: Mapping[str, Any], title: str, tab: str) -> str:
    """A command line that paints with this unit alone. The request is read from standard input, where no
    letter of it means anything to the shell."""
    body = as_json(_request(told, title, tab))
    return (
        f"curl http://127.0.0.1:7860/sdapi/v1/{tab} -H 'Content-Type: application/json' "
        f"-d @- <<'REQUEST'\n{body}\nREQUEST"
    )


def as_python(told: Mapping[str, Any], title: str, tab: str) -> str:
    """A program that paints with this unit alone."""
    body = json.dumps(_request(told, title, tab), ensure_ascii=False)
    return (
        "import json\nfrom urllib.request import Request, urlopen\n\n"
        f"body = json.loads({body!r})\n"
        f'request = Request("http://127.0.0.1:7860/sdapi/v1/{tab}", json.dumps(body).encode(), '
        '{"Content-Type": "application/json"})\n'
        'print(list(json.load(urlopen(request))["images"]))\n'
    )
