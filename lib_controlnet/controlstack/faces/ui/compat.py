"""The only file that knows gradio's versions: 3.41 (A1111, reForge), 4.40 (Forge) and the newest."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import gradio as gr
from gradio.context import Context

from controlstack.faces.ui.fields import Field
from controlstack.image import Array

MAJOR = int(gr.__version__.partition(".")[0])
_OLD = MAJOR < 4
_BRUSH = 20
"""px"""
_HEIGHT = 242
"""px of a picture on the page, as sd-webui-controlnet shows previews"""
_SOURCES = ("upload", "webcam", "clipboard")
DRAWS_APART = MAJOR == 4
"""gradio 4 keeps a WebGL context for each canvas on the page, shown or not, and browsers grant 16: there all
units share one canvas."""


def _lenient(kind: type[Any]) -> type[Any]:
    """A kind of component that takes any value: what is wrong is told in words at its unit, and not by an
    error of the page's, which would also hit values that are on their way while a range changes.

    gradio 3 and 4 check nothing. gradio's own metaclass is passed over, as it writes a file beside this one.
    """
    if MAJOR < 5:
        return kind
    body = {
        "preprocess": lambda _self, payload: payload,
        "is_template": True,
        "__module__": __name__,
        "__init__": kind.__init__,
    }
    made: type[Any] = ABCMeta.__new__(type(kind), kind.__name__, (kind,), body)
    return made


_Slider, _Dropdown, _Radio = map(_lenient, (gr.Slider, gr.Dropdown, gr.Radio))


def component(field: Field, elem_id: str, **said: Any) -> Any:
    """The component of a field. said: what is different from the table"""
    common = {
        "value": field.default,
        "label": field.label,
        "visible": field.visible,
        "elem_id": elem_id,
        "elem_classes": list(field.classes),
        "interactive": True,
    }
    made = _KINDS[field.kind](field, {**common, **said})
    made.do_not_save_to_config = True  # A1111 would pin ranges and choices that follow the preprocessor
    return made


def _slider(field: Field, said: dict[str, Any]) -> Any:
    minimum, maximum, step = field.span
    return _Slider(minimum=minimum, maximum=maximum, step=step, **said)


def _choice(kind: type[Any]) -> Callable[[Field, dict[str, Any]], Any]:
    return lambda field, said: kind(**{"choices": list(field.choices), **said})


def _text(field: Field, said: dict[str, Any]) -> Any:
    return gr.Textbox(placeholder=field.hint, **said)


def _canvas(field: Field, said: dict[str, Any]) -> Any:
    """A picture that can be brushed over."""
    if DRAWS_APART:
        return _mask(field, said)
    if _OLD:
        return gr.Image(source="upload", tool="sketch", type="numpy", brush_radius=_BRUSH, **said)
    return _editor(_SOURCES, said)


def _editor(sources: Sequence[str], said: dict[str, Any]) -> Any:
    brush = gr.Brush(default_size=_BRUSH, colors=["#ffffff"], color_mode="fixed")
    more: dict[str, Any] = dict(sources=sources, brush=brush, layers=False, transforms=(), format="png")
    return gr.ImageEditor(type="numpy", **more, **said)


def shared_canvas(label: str, elem_id: str) -> Any:
    """The canvas that units share where they have none of their own. It takes pictures from them alone: that
    gradio has the brush in hand only where no other picture can be put in."""
    return _editor((), {"label": label, "elem_id": elem_id, "interactive": True})


def _mask(_: Field, said: dict[str, Any]) -> Any:
    """A picture that is only put in."""
    new: dict[str, Any] = {} if _OLD else {"sources": _SOURCES, "format": "png", "height": _HEIGHT}
    return gr.Image(type="numpy", **new, **said)


def _preview(_: Field, said: dict[str, Any]) -> Any:
    lossless = {} if _OLD else {"format": "png"}
    return gr.Image(type="numpy", height=_HEIGHT, **lossless, **{**said, "interactive": False})


def _gallery(_: Field, said: dict[str, Any]) -> Any:
    if _OLD:
        said.pop("interactive")
        return gr.Gallery(columns=4, rows=2, **said)
    return gr.Gallery(columns=4, rows=2, type="filepath", **said)


def _files(_: Field, said: dict[str, Any]) -> Any:
    return gr.File(file_count="multiple", file_types=["image"], **said)


_KINDS: Mapping[str, Callable[[Field, dict[str, Any]], Any]] = {
    "checkbox": lambda _, said: gr.Checkbox(**said),
    "slider": _slider,
    "radio": _choice(_Radio),
    "dropdown": _choice(_Dropdown),
    "text": _text,
    "picture": _canvas,
    "mask": _mask,
    "preview": _preview,
    "gallery": _gallery,
    "files": _files,
}


def canvas_value(rgb: Array | None, mask: Array | None = None) -> Any:
    """What a canvas is given to show. gradio 3 shows no strokes that were not drawn there."""
    if rgb is None or _OLD or DRAWS_APART:
        return rgb
    return editor_value(rgb, mask)


def editor_value(rgb: Array, mask: Array | None = None) -> Any:
    """What a canvas of gradio 4 and newer is given to show."""
    import numpy as np

    layers = []
    if mask is not None:
        layers = [np.dstack([np.full_like(rgb, 255), mask])]
    return {"background": rgb, "layers": layers, "composite": None}


def dropdown(label: str, elem_id: str) -> Any:
    """A list of names that is filled while the page is open."""
    made = _Dropdown(choices=[], value=None, label=label, elem_id=elem_id, interactive=True)
    made.do_not_save_to_config = True
    return made


def tool(label: str, elem_id: str, title: str, *classes: str, **said: Any) -> Any:
    """A small button. title: what it does, for those who cannot guess"""
    made = gr.Button(label, elem_id=elem_id, elem_classes=["tool", "cnet-toolbutton", *classes], **said)
    made.tooltip = title
    return made


def upload_button(label: str, elem_id: str, kinds: Sequence[str], *, many: bool = False, **said: Any) -> Any:
    """A button that uploads files."""
    count = "multiple" if many else "single"
    return gr.UploadButton(label, elem_id=elem_id, file_types=list(kinds), file_count=count, **said)


def html(value: str, elem_id: str | None = None, *classes: str, visible: bool = True) -> Any:
    """A piece of the page."""
    return gr.HTML(value, elem_id=elem_id, elem_classes=list(classes), visible=visible)


def tab(label: str, elem_id: str, *classes: str, shown: bool = True) -> Any:
    """A tab."""
    said: dict[str, Any] = {"elem_id": elem_id, "elem_classes": list(classes)}
    if "visible" in signature(gr.Tab).parameters:
        said["visible"] = shown
    return gr.Tab(label, **said)


def tabs_shown(tabs_id: str, count: int, total: int) -> tuple[str, list[Any]]:
    """How to show the first `count` of some tabs: a style sheet, and an update for each tab.

    gradio 3 cannot hide a tab, so the style sheet hides its button.
    """
    if _OLD:
        hidden = f"#{tabs_id} > .tab-nav > button:nth-child(n+{count + 1}) {{ display: none; }}"
        return f"<style>{hidden}</style>", []
    return "", [gr.update(visible=place < count) for place in range(total)]


CAN_HIDE_TABS = not _OLD


def on(
    listener: Any,
    function: Callable[..., Any] | None,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    *,
    queue: bool = False,
    js: str | None = None,
) -> Any:
    """Have a function answer an event of a component's, such as `button.click`, unlisted among the API's."""
    known = signature(listener).parameters
    said: dict[str, Any] = {"queue": queue, "show_progress": "hidden"}
    said["js" if "js" in known else "_js"] = js
    if "api_visibility" in known:
        said["api_visibility"] = "undocumented"
    else:
        said["api_name"] = False
    return listener(function, inputs=list(inputs), outputs=list(outputs), **said)


def listeners(component: Any, name: str) -> list[Any]:
    """The events of this name that a component has."""
    listener = getattr(component, name, None)
    return [listener] if listener is not None else []


def update(change: Mapping[str, Any]) -> Any:
    """New properties for a component; none leaves it as it is."""
    return gr.update(**change)


def on_this_page(made: Any) -> bool:
    """Whether a component belongs to the page that is being built, not to one that hosts build aside."""
    root = Context.root_block
    return root is not None and getattr(made, "_id", None) in root.blocks


def gallery_value(paths: Sequence[str]) -> Any:
    """What a gallery is given to show; nothing at all empties it."""
    return list(paths) or None


def webcam(on: bool) -> Any:
    """An update that has the canvas of gradio 3 take its picture from a webcam, or from a file again. Newer
    canvases have a sign of their own for it."""
    return {"source": "webcam" if on else "upload", "value": None, "__type__": "update"}
