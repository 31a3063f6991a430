"""The tab that reads what a picture says of how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from modules.images import read_info_from_image
from PIL import Image

from controlstack.hosts.embedded import page_gradio, page_paste


def build(tabs: Mapping[str, Sequence[page_paste.Target]]) -> None:
    """Lay it out and wire it; `tabs` are those that an infotext can be sent to."""
    with gr.Row():
        with gr.Column():
            picture = page_gradio.made(
                gr.Image,
                type="filepath",
                label="A picture with its infotext",
                elem_id="pnginfo_image",
                **page_gradio.UPLOAD,
            )
        with gr.Column():
            text = page_gradio.made(
                gr.Textbox, label="Infotext", lines=6, elem_id="pnginfo_infotext", **page_gradio.COPY
            )
            with gr.Row():
                for tab, targets in tabs.items():
                    send = gr.Button(f"Send to {tab}", elem_id=f"pnginfo_send_to_{tab}")
                    wire(send, text, tab, targets)
            parameters = gr.JSON(label="Parameters")
    picture.change(_read_info, picture, [text, parameters], api_name=False)


def wire(button: Any, text: Any, tab: str, targets: Sequence[page_paste.Target]) -> None:
    """Have the button put the text's values into a tab and show that."""
    button.click(
        lambda said: page_paste.updates(said, targets),
        text,
        [target.component for target in targets],
        api_name=False,
        show_progress="hidden",
        queue=False,
    )
    button.click(None, [], [], **page_gradio.javascript(f"() => showTab('{tab}')"))


def _read_info(file: str | None) -> tuple[str, dict[str, Any]]:
    if not file:
        return "", {}
    with Image.open(file) as picture:
        text = read_info_from_image(picture)[0] or ""
    return text, page_paste.read(text)
