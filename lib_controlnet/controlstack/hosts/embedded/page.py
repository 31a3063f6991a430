"""The page: a tab for pictures from words, one for pictures from pictures, and those of extensions."""

from __future__ import annotations

from html import escape

import gradio as gr
from fastapi import FastAPI
from modules import script_callbacks, scripts, shared
from modules.paths import default_output_dir

from controlstack.hosts.embedded import page_gradio, page_head, page_png_info, page_settings, page_tab


def build() -> gr.Blocks:
    """The whole page, with what scripts show on it."""
    with page_gradio.blocks("ControlStack") as blocks:
        gr.Markdown(
            f"### ControlStack's embedded WebUI\nIt paints with **{escape(shared.sd_model.name)}**. "
            "[Latest pictures](/latest) · [HTTP API](/docs)"
        )
        with gr.Tabs(elem_id="tabs"):
            tabs = {}
            for name, runner in (("txt2img", scripts.scripts_txt2img), ("img2img", scripts.scripts_img2img)):
                with page_gradio.tab(name, f"tab_{name}"):
                    tabs[name] = page_tab.build(name, runner)
            with page_gradio.tab("PNG Info", "tab_pnginfo"):
                page_png_info.build({name: tab.targets for name, tab in tabs.items()})
            for content, title, elem_id in script_callbacks.ui_tabs_callback():
                with page_gradio.tab(title, f"tab_{elem_id}"):
                    content.render()
            with page_gradio.tab("Settings", "tab_settings"):
                page_settings.build()
        for tab in tabs.values():
            page_tab.wire_sending(tab, tabs["img2img"])
    return blocks


def mount(app: FastAPI, blocks: gr.Blocks) -> FastAPI:
    """Put the page at / with the stylesheets and the JavaScript of extensions."""
    roots = list(dict.fromkeys(data.basedir for data in scripts.scripts_data))
    files = page_head.files(roots)
    page_head.serve(app, files)
    app = page_gradio.mount(app, blocks, default_output_dir)
    app.add_middleware(page_head.Head, head=page_head.html(files, shared.opts.dumps()))
    return app
