"""The page: a tab for pictures from words, one for pictures from pictures, and those of extensions."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from modules import infotext_utils, script_callbacks, scripts, shared
from modules.images import read_info_from_image
from modules.paths import default_output_dir
from PIL import Image

from controlstack.hosts.embedded import page_tab

_KEEP_FILES = (3600, 86400)
"""Every hour, gradio's copies of pictures that are older than a day are removed (s)."""
_FONTS = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
"""The reader's own: the page asks nobody else for anything."""


def build() -> gr.Blocks:
    """The whole page, with what scripts show on it."""
    with gr.Blocks(title="ControlStack", analytics_enabled=False, delete_cache=_KEEP_FILES) as blocks:
        gr.Markdown(
            f"### ControlStack's embedded WebUI\nIt paints with **{escape(shared.sd_model.name)}**. "
            "[Latest pictures](/latest) · [HTTP API](/docs)"
        )
        with gr.Tabs():
            for tab, runner in (("txt2img", scripts.scripts_txt2img), ("img2img", scripts.scripts_img2img)):
                with gr.Tab(tab, elem_id=f"tab_{tab}"):
                    page_tab.build(tab, runner)
            with gr.Tab("PNG Info", elem_id="tab_pnginfo"):
                _png_info()
            for content, title, elem_id in script_callbacks.ui_tabs_callback():
                with gr.Tab(title, elem_id=f"tab_{elem_id}"):
                    content.render()
    return blocks


def mount(app: FastAPI, blocks: gr.Blocks) -> FastAPI:
    """Put the page at / with the stylesheets and the JavaScript of extensions."""
    roots = list(dict.fromkeys(data.basedir for data in scripts.scripts_data))
    styles = [root / "style.css" for root in roots]
    code = [file for root in roots for file in sorted((root / "javascript").glob("*.js"))]
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=gr.themes.Soft(**_FONTS),
        css_paths=[file for file in styles if file.is_file()],
        head="\n".join(map(_inline, code)) or None,
        allowed_paths=[default_output_dir],
        footer_links=[],
        ssr_mode=False,
    )


def _inline(file: Path) -> str:
    return f"<script>\n{file.read_text(encoding='utf-8')}\n</script>"


def _png_info() -> None:
    with gr.Row():
        picture = gr.Image(type="filepath", label="A picture with its infotext", sources=["upload"])
        with gr.Column():
            text = gr.Textbox(label="Infotext", lines=6, buttons=["copy"])
            parameters = gr.JSON(label="Parameters")
    picture.change(_read_info, picture, [text, parameters], api_name=False)


def _read_info(file: str | None) -> tuple[str, dict[str, Any]]:
    if not file:
        return "", {}
    with Image.open(file) as picture:
        text = read_info_from_image(picture)[0] or ""
    parameters: dict[str, Any] = infotext_utils.parse_generation_parameters(text) if text else {}
    script_callbacks.infotext_pasted_callback(text, parameters)
    return text, parameters
