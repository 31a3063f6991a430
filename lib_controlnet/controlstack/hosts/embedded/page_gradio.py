"""What the page needs of gradio that 3.41, 4.40 and the newest each spell their own way.

The WebUIs pin 3.41 (A1111, reForge) and 4.40 (Forge). Settings of a component that a gradio does not have are
left out: the page is plainer there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import gradio as gr
import httpx
from fastapi import FastAPI
from PIL import Image, ImageChops

_IS_3 = gr.__version__.startswith("3.")
_KEEP_FILES = (3600, 86400)
"""Every hour, gradio's copies of pictures that are older than a day are removed (s)."""
_FONTS = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
"""The reader's own: the page asks nobody else for anything."""
_AT_ONCE = 64
"""Events that gradio 3 works on at the same time; later ones count for each event."""

COPY = {"buttons": ["copy"], "show_copy_button": True}
UPLOAD = {"sources": ["upload"], "source": "upload"}
"""As every gradio is told; `known` keeps what this one understands."""


def known(call: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that have a name among the call's parameters."""
    parameters = inspect.signature(call).parameters
    return {name: value for name, value in settings.items() if name in parameters}


def made(kind: Callable[..., Any], **settings: Any) -> Any:
    """A component with those of the settings that this gradio knows."""
    return kind(**known(kind, settings))


def tab(title: str, elem_id: str) -> Any:
    """A tab that stands in the page also while another one is shown, as scripts of extensions expect."""
    return made(gr.Tab, label=title, elem_id=elem_id, render_children=True)


def update(**changes: Any) -> Any:
    """Changes of a component; none leaves it as it is."""
    return gr.update(**changes)


def blocks(title: str) -> gr.Blocks:
    """An empty page whose events may wait in a queue."""
    page = made(gr.Blocks, title=title, analytics_enabled=False, delete_cache=_KEEP_FILES, theme=_theme())
    if _IS_3:
        page.queue(concurrency_count=_AT_ONCE)
    return page


def mount(app: FastAPI, page: gr.Blocks, shown: str) -> FastAPI:
    """Put the page at /; it may show files from the folder `shown`."""
    page.allowed_paths = [shown]
    settings = {"theme": _theme(), "allowed_paths": [shown], "footer_links": [], "ssr_mode": False}
    settings["gradio_api_url"] = "http://page/"
    app = gr.mount_gradio_app(app, page, path="/", **known(gr.mount_gradio_app, settings))
    if _IS_3:
        mounted: Any = app.routes[-1]
        _ask_inside(page._queue, mounted.app)
    return app


def _ask_inside(queue: Any, server: Any) -> None:
    """gradio 3's queue asks the page's own server for each event. Here it asks without a network, so that
    neither the port nor a password matter."""
    start = queue.start

    async def started(*args: Any) -> None:
        await start(*args)
        queue.queue_client = httpx.AsyncClient(transport=httpx.ASGITransport(app=server))

    queue.start = started


def _theme() -> Any:
    return gr.themes.Soft(**_FONTS)


def javascript(code: str) -> dict[str, str]:
    """The argument of an event that runs code in the browser."""
    return {"_js" if _IS_3 else "js": code}


def failure(sentence: str) -> Exception:
    """What to raise so that the page shows the sentence until the reader closes it; from 4 on it is HTML."""
    shown = sentence if _IS_3 else escape(sentence)
    return gr.Error(shown, **known(gr.Error, {"duration": None, "print_exception": False}))


def canvas() -> tuple[Any, dict[str, Any]]:
    """The component on which one uploads a picture and brushes over it, and its settings."""
    if _IS_3:
        return gr.Image, {
            "source": "upload",
            "tool": "sketch",
            "image_mode": "RGBA",
            "brush_color": "#ffffff",
        }
    brush = gr.Brush(colors=["#ffffff"], default_size=40)
    return gr.ImageEditor, {
        "sources": ("upload", "clipboard"),
        "brush": brush,
        "transforms": (),
        "format": "png",
    }


def canvas_value(picture: Any) -> Any:
    """A picture, or its file, as the canvas takes it."""
    if _IS_3:
        return picture
    return {"background": picture, "layers": [], "composite": picture}


def drawing(drawn: Mapping[str, Any] | None) -> tuple[Image.Image | None, Image.Image | None]:
    """The canvas's picture, and what was brushed over as a mask "L", None for nothing."""
    if not drawn:
        return None, None
    if "mask" in drawn:
        picture, mask = drawn["image"], drawn["mask"] and drawn["mask"].convert("L")
    else:
        picture, mask = drawn["background"], None
        for layer in drawn["layers"]:
            alpha = layer.getchannel("A").point(lambda value: 255 * (value > 0))
            mask = alpha if mask is None else ImageChops.lighter(mask, alpha)
    mask = mask if mask is not None and mask.getbbox() else None
    transparent = picture is not None and not picture.convert("RGBA").getchannel("A").getbbox()
    if transparent and mask is None:  # gradio 4 sends such a picture where nobody put one in
        return None, None
    return picture, mask
