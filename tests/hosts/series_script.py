"""A WebUI script for the tests: it paints with units as the page makes them, which no request can ask for."""

from __future__ import annotations

import importlib

import gradio as gr
from modules import scripts
from modules.processing import process_images

external_code = importlib.import_module("extensions.sd-webui-controlnet.scripts.external_code")


class Series(scripts.Script):
    def title(self):
        return "Series"

    def ui(self, is_img2img):
        return [gr.JSON(value=[])]

    def run(self, p, units):
        made = [external_code.ControlNetUnit(**{"enabled": True, **unit}) for unit in units]
        external_code.update_cn_script_in_processing(p, made)
        first = process_images(p)
        assert p.n_iter == self.asked(p)
        return first

    def asked(self, p):
        return 2 if p.prompt == "twice" else 1
