"""What a tab of the page asks for, by the names of the job's fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from modules import script_callbacks, shared
from modules.processing_txt2img import LATENT_UPSCALERS, PIXEL_UPSCALERS

from controlstack.hosts.embedded import page_gradio, samplers

_IDS = {
    "negative_prompt": "neg_prompt",
    "sampler_name": "sampling",
    "n_iter": "batch_count",
    "init": "image",
    "enable_hr": "hr-checkbox",
}
"""Where A1111's ids, by which extensions and tools find a field, are not the fields' names."""

Ask = Callable[..., Any]
"""Make a component for a field: `ask(field, kind, **settings)`."""


def asker(tab: str, fields: dict[str, Any]) -> Ask:
    """Makes components, enters them in `fields`, and tells the scripts that wait for one by its id."""

    def ask(field: str, kind: type[Any], **settings: Any) -> Any:
        settings["elem_id"] = f"{tab}_{_IDS.get(field, field)}"
        script_callbacks.before_component_callback(kind, **settings)
        component = fields[field] = page_gradio.made(kind, **settings)
        script_callbacks.after_component_callback(component, **settings)
        return component

    return ask


def prompts(ask: Ask) -> None:
    ask(
        "prompt",
        gr.Textbox,
        label="Prompt",
        lines=2,
        placeholder="What to paint: (strong), [weak], (word:1.3)",
    )
    ask("negative_prompt", gr.Textbox, label="Negative prompt", lines=2, placeholder="What to avoid")


def picture(ask: Ask) -> None:
    kind, settings = page_gradio.canvas()
    ask("init", kind, label="Picture; brush over what to repaint", type="pil", **settings)
    with gr.Row():
        ask(
            "denoising_strength",
            gr.Slider,
            label="Denoising strength",
            value=0.75,
            minimum=0,
            maximum=1,
            step=0.01,
        )
        modes = ["Just resize", "Crop and resize", "Resize and fill", "Just resize (latent upscale)"]
        ask("resize_mode", gr.Dropdown, label="Resize mode", choices=modes, value=modes[0], type="index")
    with gr.Accordion("Inpaint", open=False):
        _inpaint(ask)


def _inpaint(ask: Ask) -> None:
    ask(
        "mask",
        gr.Image,
        label="Mask in place of the brush, white is repainted",
        type="pil",
        **page_gradio.UPLOAD,
    )
    with gr.Row():
        ask("mask_blur", gr.Slider, label="Mask blur", value=4, minimum=0, maximum=64, step=1)
        ask("inpaint_full_res_padding", gr.Slider, label="Padding", value=32, minimum=0, maximum=256, step=4)
    with gr.Row():
        sides = ["Inpaint masked", "Inpaint not masked"]
        ask(
            "inpainting_mask_invert", gr.Radio, label="Mask mode", choices=sides, value=sides[0], type="index"
        )
        areas = ["Whole picture", "Only masked"]
        ask("inpaint_full_res", gr.Radio, label="Area", choices=areas, value=areas[0], type="index")
    fills = ["fill", "original", "latent noise", "latent nothing"]
    ask("inpainting_fill", gr.Radio, label="Start from", choices=fills, value=fills[1], type="index")


def sampling(ask: Ask) -> None:
    with gr.Row():
        names = list(samplers.SAMPLERS)
        ask("sampler_name", gr.Dropdown, label="Sampler", choices=names, value=names[0])
        labels = list(samplers.SCHEDULES)
        ask("scheduler", gr.Dropdown, label="Schedule type", choices=labels, value=labels[0])
        ask("steps", gr.Slider, label="Steps", value=20, minimum=1, maximum=150, step=1)
    size = shared.sd_model.size
    with gr.Row():
        ask("width", gr.Slider, label="Width", value=size, minimum=64, maximum=2048, step=8)
        ask("height", gr.Slider, label="Height", value=size, minimum=64, maximum=2048, step=8)
        ask("cfg_scale", gr.Slider, label="CFG scale", value=7, minimum=1, maximum=30, step=0.5)
    with gr.Row():
        ask("n_iter", gr.Slider, label="Batch count", value=1, minimum=1, maximum=100, step=1)
        ask("batch_size", gr.Slider, label="Batch size", value=1, minimum=1, maximum=8, step=1)
    with gr.Row():
        ask("seed", gr.Number, label="Seed (-1 is random)", value=-1, precision=0)
        ask("subseed", gr.Number, label="Variation seed", value=-1, precision=0)
        strength = {"value": 0, "minimum": 0, "maximum": 1, "step": 0.01}
        ask("subseed_strength", gr.Slider, label="Variation strength", **strength)


def depth(ask: Ask) -> None:
    ask("depth_map", gr.Image, label="Depth picture, near is bright", type="pil", **page_gradio.UPLOAD)


def hires(ask: Ask) -> None:
    with gr.Accordion("Hires fix", open=False):
        ask("enable_hr", gr.Checkbox, label="Enable", value=False)
        with gr.Row():
            names = [*LATENT_UPSCALERS, *PIXEL_UPSCALERS]
            ask("hr_upscaler", gr.Dropdown, label="Upscaler", choices=names, value=names[0])
            ask("hr_scale", gr.Slider, label="Upscale by", value=2, minimum=1, maximum=4, step=0.05)
        with gr.Row():
            ask(
                "hr_second_pass_steps",
                gr.Slider,
                label="Hires steps",
                value=0,
                minimum=0,
                maximum=150,
                step=1,
            )
            strength = {"value": 0.7, "minimum": 0, "maximum": 1, "step": 0.01}
            ask("denoising_strength", gr.Slider, label="Denoising strength", **strength)
