"""The small buttons of a unit: canvas, webcam, mirror, dimensions, several pictures, preview and pose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from controlstack.errors import ControlError
from controlstack.faces.ui import compat, events, host_page, pictures, preview, values
from controlstack.faces.ui.fields import FIELDS, NAMES
from controlstack.faces.ui.layout import UnitView
from controlstack.faces.ui.preview import Shown
from controlstack.faces.ui.stock import Stock

_DEFAULTS = {field.name: field.default for field in FIELDS}
_LOOKED_AT = tuple(name for name in NAMES if name != "preview")
"""What a preview is made of."""


def wire(view: UnitView, stock: Stock) -> None:
    """Connect the small buttons of a unit."""
    size = host_page.size(view.tab)
    _wire_canvas(view, size)
    _wire_gallery(view)
    _wire_preview(view, stock, size)


def _wire_canvas(view: UnitView, size: list[Any]) -> None:
    parts, picture, enabled = view.parts, view.fields["picture"], view.fields["enabled"]
    canvas = parts["_new_canvas"]
    show, hide = (lambda shown=shown: gr.update(visible=shown) for shown in (True, False))
    compat.on(parts["_controlnet_open_new_canvas_button"].click, show, [], [canvas])
    compat.on(parts["_controlnet_canvas_cancel_button"].click, hide, [], [canvas])
    compat.on(
        parts["_controlnet_canvas_create_button"].click,
        lambda width, height: [compat.canvas_value(blank(width, height)), True, gr.update(visible=False)],
        [parts["_controlnet_canvas_width"], parts["_controlnet_canvas_height"]],
        [picture, enabled, canvas],
    )
    compat.on(parts["_webcam_mirror"].click, _mirrored, [picture], [picture])
    webcam = gr.State(False)
    compat.on(
        parts["_webcam_enable"].click,
        lambda on: [compat.webcam(not on), not on],
        [webcam],
        [picture, webcam],
    )
    if size:
        compat.on(parts["_send_dimen_button"].click, _dimensions, [picture, *size], size)


def blank(width: float, height: float) -> Any:
    """A white canvas."""
    return np.full((int(height), int(width), 3), 255, np.uint8)


def _mirrored(value: Any) -> Any:
    found = pictures.drawn(value)
    if found is None:
        return gr.update()
    mask = None if found.mask is None else found.mask[:, ::-1]
    return compat.canvas_value(np.ascontiguousarray(found.rgb[:, ::-1]), mask)


def _dimensions(value: Any, width: float, height: float) -> list[Any]:
    found = pictures.drawn(value)
    if found is None:
        return [width, height]
    return [nearest(side) for side in found.rgb.shape[1::-1]]


def nearest(side: int) -> int:
    """The nearest whole number of latent cells in px, of two the smaller, as the incumbent has it."""
    return max(8, (side + 3) // 8 * 8)


def _wire_gallery(view: UnitView) -> None:
    gallery = view.fields["gallery"]
    upload = view.parts["_merge_upload"]
    compat.on(upload.upload, _added, [upload, gallery], [gallery])
    compat.on(view.parts["_merge_clear"].click, lambda: compat.gallery_value([]), [], [gallery])


def _added(new: Any, old: Any) -> Any:
    """What is in the gallery, and the uploaded files behind it."""
    return compat.gallery_value([str(path) for value in (old, new) for path in pictures.files(value)])


def _wire_preview(view: UnitView, stock: Stock, size: list[Any]) -> None:
    fields, parts = view.fields, view.parts
    outputs = [
        *(fields["preview"], fields["allow_preview"], fields["preview_as_input"]),
        *(parts["_preview_status"], parts["_pose_json"], parts["_pose_download"]),
        *(parts["_pose_edit"], parts["_preview_close"], parts["_mistake"]),
    ]

    def look(*given: Any) -> Iterator[Any]:
        page, sides = _read(given)
        for shown in preview.run(page, stock, sides):
            yield _updates(shown)

    inputs = [*(fields[name] for name in _LOOKED_AT), *size]
    compat.on(parts["_controlnet_trigger_preprocessor"].click, look, inputs, outputs, queue=True)

    def draw(text: str, *given: Any) -> Any:
        page, sides = _read(given)
        return _updates(preview.drawn(text, page, sides), as_input=True)

    compat.on(parts["_pose_render"].click, draw, [parts["_pose_json"], *inputs], outputs)

    def load(file: Any, *given: Any) -> Any:
        try:
            text = _text(file)
        except ControlError as error:
            return _updates(Shown(mistake=events.sentences(error), done=True))
        return draw(text, *given)

    compat.on(parts["_pose_upload"].upload, load, [parts["_pose_upload"], *inputs], outputs)
    compat.on(
        parts["_preview_close"].click,
        lambda: [gr.update(value=False), gr.update(value=False), gr.update(visible=False)],
        [],
        [fields["allow_preview"], fields["preview_as_input"], parts["_preview_close"]],
    )


def _read(given: tuple[Any, ...]) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """A unit's values, and the size of the page's picture where it is known."""
    page = _DEFAULTS | dict(zip(_LOOKED_AT, given, strict=False))
    sides = given[len(_LOOKED_AT) :]
    return page, preview.painted(*sides) if sides else None


def _updates(shown: Shown, *, as_input: bool = False) -> list[Any]:
    """Updates for everything around a preview."""
    status = events.as_status(shown.status)
    said = events.as_html(shown.mistake)
    if shown.map is None:
        rest = [gr.update() for _ in range(3)]
        return [*rest, status, *(gr.update() for _ in range(4)), said if shown.done else gr.update()]
    return [
        gr.update(value=shown.map, visible=True),
        gr.update(value=True),
        gr.update(visible=True, **({"value": True} if as_input else {})),
        status,
        shown.pose,
        preview.download(shown.pose),
        gr.update(visible=True),
        gr.update(visible=True),
        "",
    ]


def _text(file: Any) -> str:
    """The text of an uploaded file."""
    path = next(pictures.files(file), None)
    if path is None or not pictures.within(path, values.upload_folders()):
        raise ControlError("No file came", fix="Upload it again")
    try:
        text = Path(path).read_text(encoding="utf-8")
        json.loads(text)
    except (OSError, ValueError) as error:
        raise ControlError(f"{path.name} is no JSON", str(error), "Upload a pose's JSON") from error
    return text
