"""A WebUI script for the tests: does with each finished picture what ADetailer does with a face.

A job inside the job repaints the picture, with the same scripts and one unit of its own, through the import
path that ADetailer makes from our folder's name, or with {"as": "forge"} in its way for Forge. Its argument
is a dict: {"unit": fields} does it, {"paths": [...]} tells in the infotext whether the classes behind import
paths are one. At load it imports what others do that come before us in the order of names.
"""

from __future__ import annotations

import copy
import importlib
from importlib.util import find_spec

import gradio as gr
import numpy as np
from modules import extensions, scripts
from modules.processing import StableDiffusionProcessingImg2Img, process_images

EARLY = importlib.import_module("extensions.sd-webui-controlnet.scripts.external_code")
EARLY_ON_FORGE = []
if find_spec("modules_forge"):
    EARLY_ON_FORGE = [
        importlib.import_module(f"lib_controlnet.{n}") for n in ("external_code", "global_state")
    ]


def controlnet():
    named = (one.name for one in extensions.active() if "sd-webui-controlnet" in one.name)
    folder = next(named, "sd-webui-controlnet")  # the embedded host has us under any name
    return importlib.import_module(f"extensions.{folder}.scripts.external_code")


def without_units(args):
    """As ADetailer: its job shall not repeat the units of the one around it."""
    copied = [copy.copy(arg) for arg in args]
    for arg in copied:
        if "controlnet" in type(arg).__name__.lower():
            arg.enabled = False
        elif isinstance(arg, dict) and "module" in arg:
            arg["enabled"] = False
    return type(args)(copied)


class Nested(scripts.Script):
    def title(self):
        return "Nested job"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.JSON(value={})]

    def process(self, p, asked):
        if paths := asked.get("paths"):
            kinds = {importlib.import_module(path).ControlNetUnit for path in paths}
            p.extra_generation_params["One class"] = kinds == {EARLY.ControlNetUnit}
            p.extra_generation_params["Models"] = " ".join(EARLY.get_models(update=True))
            sliders = EARLY.get_modules_detail()["canny"]["sliders"]
            p.extra_generation_params["Sliders"] = [slider["name"] for slider in sliders]

    def postprocess_image(self, p, pp, asked):
        if "unit" in asked and not getattr(p, "inner_job", False):
            pp.image = repainted(p, pp.image, asked["unit"], as_on_forge=asked.get("as") == "forge")


def only_control(job, fields):
    """What ADetailer does on Forge: of all scripts the job keeps one, with one unit."""
    external_code, global_state = EARLY_ON_FORGE
    assert fields["model"] in global_state.get_all_controlnet_names()
    picture = np.asarray(job.init_images[0])
    image = {"image": picture, "mask": np.full_like(picture, 255)}
    resize = external_code.resize_mode_from_value(job.resize_mode)
    side = external_code.pixel_perfect_resolution(picture, job.height, job.width, resize_mode=resize)
    unit = external_code.ControlNetUnit(enabled=True, image=image, processor_res=side, **fields)
    script = copy.copy(next(s for s in scripts.scripts_img2img.scripts if s.title() == "ControlNet"))
    script.args_from, script.args_to = 0, 1
    job.scripts = copy.copy(scripts.scripts_img2img)
    job.scripts.alwayson_scripts = [script]
    job.script_args_value = [unit]


def repainted(p, picture, fields, *, as_on_forge=False):
    names = ("prompt", "negative_prompt", "steps", "cfg_scale", "width", "height", "sampler_name", "sd_model")
    job = StableDiffusionProcessingImg2Img(
        init_images=[picture],
        denoising_strength=0.9,
        seed=1,
        do_not_save_samples=True,
        do_not_save_grid=True,
        **{name: getattr(p, name) for name in names},
    )
    job.inner_job = True
    job.scripts, job.script_args = copy.copy(p.scripts), without_units(p.script_args)
    if as_on_forge:
        only_control(job, fields)
    elif fields:
        external = controlnet()
        mode = external.ControlMode.BALANCED
        unit = external.ControlNetUnit(control_mode=mode, pixel_perfect=True, enabled=True, **fields)
        external.update_cn_script_in_processing(job, [unit])
    return process_images(job).images[0]
