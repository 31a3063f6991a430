"""A WebUI script for the tests: it records the hooks that the host calls, and does what it is asked for.

Its first argument is a dict: {"raise_in": hook} raises there, {"edit": hook} changes what that hook may
change, {"depth": hook} sets a depth picture there, {"fail_unet": true} raises in the UNet, {"x0": what}
listens to the denoised pictures of this job, see `listen`. The record comes back in the job's
`extra_generation_params`.
"""

from __future__ import annotations

import gradio as gr
from modules import script_callbacks, scripts, shared
from PIL import Image

HOOKS = [
    "setup",
    "before_process",
    "process",
    "before_process_batch",
    "after_extra_networks_activate",
    "process_batch",
    "before_hr",
    "process_before_every_sampling",
    "on_mask_blend",
    "post_sample",
    "postprocess_batch",
    "postprocess_batch_list",
    "postprocess_image",
    "postprocess_maskoverlay",
    "postprocess_image_after_composite",
    "postprocess",
]
IMPORTED_FROM = scripts.basedir()
job = {}


class Probe(scripts.Script):
    def title(self):
        return "Probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.JSON(value={}), gr.Textbox("default", label="Second")]


def hook_of(name):
    def hook(self, p, *args, **kwargs):
        asked, second = args[-2:]
        if name == "setup":
            p.probe = []
        job["running"] = p
        p.probe.append([name, *facts(name, p, args, kwargs)])
        if asked.get("edit") == name:
            edit(name, p, args, kwargs)
        if name == "process" and "x0" in asked:
            listen(p, asked["x0"])
        if asked.get("raise_in") == name:
            raise ValueError(f"the probe fails in {name}")
        if asked.get("depth") == name:
            across = [[x * 255 // 63 for x in range(64)]] * 96
            p.depth_map = Image.new("L", (64, 96))
            p.depth_map.putdata([value for row in across for value in row])
        if asked.get("fail_unet") and name == "process_before_every_sampling":
            handle = p.sd_model.unet.mid_block.register_forward_pre_hook(fail)
            p.close = lambda: (handle.remove(), type(p).close(p))
        if name == "postprocess":
            told = {
                "record": p.probe,
                "second": second,
                "unet_hooks": len(p.sd_model.unet._forward_pre_hooks),
            }
            p.extra_generation_params["probe"] = {
                **told,
                "opts": dict(shared.opts.data),
                "basedir": IMPORTED_FROM,
            }

    hook.__name__ = name
    return hook


for hook in HOOKS:
    setattr(Probe, hook, hook_of(hook))


def facts(name, p, args, kwargs):
    if name == "process":
        return [p.all_seeds, p.all_prompts, p.rng is None, p.sampler is None]
    if name == "process_before_every_sampling":
        shapes = [list(kwargs[key].shape) for key in ("x", "noise", "c")]
        uc = kwargs["uc"]
        return [p.is_hr_pass, *shapes, None if uc is None else list(uc.shape), kwargs["x"] is kwargs["noise"]]
    if name in ("before_process_batch", "process_batch", "after_extra_networks_activate"):
        return [kwargs["batch_number"], kwargs["seeds"], kwargs["prompts"]]
    if name == "post_sample":
        return [type(args[0].samples).__name__]
    if name == "postprocess_batch":
        return [list(kwargs["images"].shape), kwargs["batch_number"]]
    return []


def edit(name, p, args, kwargs):
    if name == "process":
        p.extra_generation_params["Probe, edited"] = "a: b"
        p.comment("the probe was here")
    elif name == "postprocess":
        args[0].images.append(Image.new("RGB", (5, 7), "red"))
    elif name == "process_before_every_sampling":
        kwargs["noise"].zero_()
    elif name == "postprocess_batch":
        kwargs["images"].fill_(1.0)
    elif name == "post_sample" and getattr(args[0].samples, "already_decoded", False):
        for picture in args[0].samples:
            picture.zero_()
    elif name == "post_sample":
        args[0].samples = args[0].samples * 0 + 0.5
    elif name == "postprocess_image":
        args[0].image = Image.new("RGB", args[0].image.size, "blue")
    elif name == "on_mask_blend":
        args[0].blended_latent = args[0].init_latent


def fail(module, args):
    raise RuntimeError("the probe fails in the UNet")


def listen(p, what):
    """Record them ("look"), set all rows or those after CFG to one value ("rows=0.5", "after=0.5"), or give
    the negative rows the prompts' ("same")."""
    target, _, value = what.partition("=")
    seen = {}

    def on_cfg_denoised(params):
        steps = [params.sampling_step, params.total_sampling_steps, type(params.inner_model).__name__]
        p.probe.append(["cfg_denoised", list(params.x.shape), steps])
        if target == "rows":
            params.x[:] = float(value)
        elif target == "same":
            params.x[len(p.prompts) :] = params.x[: len(p.prompts)]
        seen["rows"] = params.x.clone()

    def on_cfg_after_cfg(params):
        cond, uncond = seen["rows"][: len(params.x)], seen["rows"][-len(params.x) :]
        expected = uncond + p.cfg_scale * (cond - uncond)
        apart = float((params.x - expected).abs().max() / params.x.abs().max())
        p.probe.append(["cfg_after_cfg", list(params.x.shape), params.sampling_step, apart])
        if target == "after":
            params.x = params.x * 0 + float(value)

    callbacks = [on_cfg_denoised, on_cfg_after_cfg]
    script_callbacks.on_cfg_denoised(on_cfg_denoised)
    script_callbacks.on_cfg_after_cfg(on_cfg_after_cfg)
    p.close = lambda: (*map(script_callbacks.remove_callbacks_for_function, callbacks), type(p).close(p))


def on_cfg_denoiser(params):
    shapes = [list(t.shape) for t in (params.x, params.text_cond, params.text_uncond) if t is not None]
    steps = [params.sampling_step, params.total_sampling_steps]
    job["running"].probe.append(["cfg_denoiser", shapes, steps, [round(float(s), 3) for s in params.sigma]])


script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
