"""One sampling pass is one call of a diffusers pipeline; all pipelines share the checkpoint's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from controlstack.errors import ControlError
from controlstack.hosts.embedded import composition, latents, samplers
from controlstack.hosts.embedded.checkpoint import Checkpoint
from controlstack.hosts.embedded.prompts import Prompts
from controlstack.image import Array

TRAIN_STEPS = 1000


@dataclass
class Pass:
    """What one sampling pass starts from.

    noise: "B 4 h w", of unit variance; scripts may have changed it in place
    generators: one for each picture, for samplers that draw more noise on the way
    steps: of the whole schedule
    eta: how much of the noise of each step is drawn anew, for samplers that do; None is their usual share
    init: img2img: "B 4 h w", what the noise is added to
    strength: img2img: the share of the schedule that is run, the last part of it
    mask: inpainting: "1 1 h w", 1 is repainted, 0 is kept, between them is a blend
    masked_init: checkpoints for inpainting: "B 4 h w", the picture with grey in place of what is masked
    depth: checkpoints for depth: "B 1 h w", -1..1, near is 1
    schedule: the noise schedule's label
    zero_snr: whether to end in noise alone, as some checkpoints are trained
    """

    prompts: Prompts
    noise: Tensor
    generators: Sequence[torch.Generator]
    steps: int
    guidance: float
    eta: float | None = None
    init: Tensor | None = None
    strength: float = 1.0
    mask: Tensor | None = None
    masked_init: Tensor | None = None
    depth: Tensor | None = None
    schedule: str = "Uniform"
    zero_snr: bool = False


class _Img2Img:
    """Starts from the pass's noise, which scripts may have changed; diffusers would draw its own."""

    start: Pass
    scheduler: Any

    def prepare_latents(self, image: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.scheduler.add_noise(image.to(self.start.noise), self.start.noise, timestep)


class _Inpaint:
    """The same, and starts at full strength from the picture too, as a WebUI does."""

    start: Pass
    scheduler: Any

    def prepare_latents(
        self, *args: Any, image: Tensor, timestep: Tensor, return_image_latents: bool, **kwargs: Any
    ) -> tuple[Tensor, ...]:
        noise = self.start.noise
        image = image.to(noise)
        noised = self.scheduler.add_noise(image, noise, timestep)
        return (noised, noise, image) if return_image_latents else (noised, noise)


class Img2Img(_Img2Img, StableDiffusionImg2ImgPipeline): ...


class Inpaint(_Inpaint, StableDiffusionInpaintPipeline): ...


class Img2ImgXL(_Img2Img, StableDiffusionXLImg2ImgPipeline): ...


class InpaintXL(_Inpaint, StableDiffusionXLInpaintPipeline): ...


def build(model: Checkpoint, sampler: str, start: Pass | None = None) -> Any:
    """The pipeline for one pass, its `start`.

    Once it runs, its `num_timesteps` is the number of UNet evaluations.
    """
    text, image, paint = (
        (StableDiffusionXLPipeline, Img2ImgXL, InpaintXL)
        if model.is_sdxl
        else (StableDiffusionPipeline, Img2Img, Inpaint)
    )
    kind = text if start is None or start.init is None else image if start.mask is None else paint
    extra: dict[str, Any] = (
        {"force_zeros_for_empty_prompt": model.zero_empty, "add_watermarker": False}
        if model.is_sdxl
        else {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    )
    told: dict[str, Any] = {}
    if start is not None:
        told = {"schedule": start.schedule, "steps": start.steps, "zero_snr": start.zero_snr}
    pipe = kind(**model.components, scheduler=samplers.scheduler(sampler, model.schedule, **told), **extra)
    if kind is paint:
        # diffusers' own also rounds the mask, which has been done where it is wanted
        pipe.mask_processor = VaeImageProcessor(do_normalize=False, do_convert_grayscale=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.start = start
    return pipe


def for_checkpoint(model: Checkpoint, start: Pass) -> Pass:
    """The pass as this checkpoint can run it: one for inpainting always wants a picture and a mask.

    Where the job has none, that is a grey picture, all of it to be painted.
    Raises ControlError for a checkpoint for depth that is to inpaint.
    """
    if model.wants_depth and start.mask is not None:
        raise ControlError(
            f"The checkpoint {model.name} for depth cannot inpaint",
            fix="Choose another checkpoint, or no mask",
        )
    if not model.wants_mask or start.mask is not None:
        return start
    height, width = (8 * cells for cells in start.noise.shape[-2:])
    grey = latents.encode(model.vae, torch.full((1, 3, height, width), 0.5))
    return replace(
        start,
        init=torch.zeros_like(start.noise) if start.init is None else start.init,
        mask=torch.ones_like(start.noise[:1, :1]),
        masked_init=grey.to(start.noise).expand_as(start.noise),
    )


def with_depth(model: Checkpoint, start: Pass, depth: Array | None) -> Pass:
    """For a checkpoint for depth: the pass with a depth picture "H W", near is bright; else as it is.

    Raises ControlError without a picture.
    """
    if not model.wants_depth:
        return start
    if depth is None:
        raise ControlError(
            f"The checkpoint {model.name} paints after a depth picture, and there is none",
            fix="Send one as depth_map, near is bright, or choose another checkpoint",
        )
    return replace(start, depth=_depth_channel(depth, start.noise))


def _depth_channel(depth: Array, noise: Tensor) -> Tensor:
    """The same steps as `StableDiffusionDepth2ImgPipeline.prepare_depth_map`."""
    cells = F.interpolate(
        torch.from_numpy(depth.astype(np.float32))[None, None], noise.shape[-2:], mode="bicubic"
    )
    near, far = cells.amax(), cells.amin()
    spread = (near - far).clamp(min=torch.finfo(cells.dtype).tiny)  # a flat picture is all far
    return (2 * (cells - far) / spread - 1).to(noise).expand(len(noise), -1, -1, -1)


def run(pipe: Any, start: Pass, on_step: Callable[[Any, int], None]) -> Tensor:
    """Sample: the final latents "B 4 h w". `on_step(pipe, i)` is called after step i."""

    def after_step(pipe: Any, step: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
        on_step(pipe, step)
        return values

    arguments: dict[str, Any] = {
        **start.prompts.arguments(),
        "num_inference_steps": start.steps,
        "guidance_scale": start.guidance,
        "eta": getattr(pipe.scheduler, "usual_eta", 0.0) if start.eta is None else start.eta,
        "generator": list(start.generators),
        "output_type": "latent",
        "callback_on_step_end": after_step,
    }
    height, width = (8 * cells for cells in start.noise.shape[-2:])
    if start.init is None:
        arguments |= {"latents": start.noise, "height": height, "width": width}
    else:
        arguments |= {"image": start.init, "strength": start.strength}
    if start.mask is not None:
        arguments |= {
            "mask_image": start.mask.repeat_interleave(8, -1).repeat_interleave(
                8, -2
            ),  # it takes every 8th px
            "masked_image_latents": start.init if start.masked_init is None else start.masked_init,
            "height": height,
            "width": width,
        }
    with ExitStack() as hooks:
        if start.prompts.course is not None:
            following = composition.Following(start.prompts.course)
            hooks.enter_context(watched(pipe.unet, following.before, following.after))
        hooks.enter_context(watched(pipe.unet, _joining(start.depth)))
        return pipe(**arguments).images


def _joining(depth: Tensor | None) -> Callable[[dict[str, Any]], None]:
    """Puts depth beside the latents of every UNet call."""

    def join(called: dict[str, Any]) -> None:
        if depth is not None:
            sample = called["sample"]
            beside = depth.repeat(len(sample) // len(depth), 1, 1, 1)
            called["sample"] = torch.cat([sample, beside.to(sample)], dim=1)

    return join


@contextmanager
def watched(
    unet: Any,
    before: Callable[[dict[str, Any]], None],
    after: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[None]:
    """Give the arguments of every UNet call to `before`, which may change them, ahead of scripts.

    Those who watch last see the arguments first. `after`: what the UNet says, in the order of watching.
    """

    def on_call(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        kwargs = dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False)) | kwargs
        before(kwargs)
        return (), kwargs

    def on_answer(_: Any, args: tuple[Any, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (after(output[0]), *output[1:]) if after else output

    hooks = (
        unet.register_forward_pre_hook(on_call, with_kwargs=True, prepend=True),
        unet.register_forward_hook(on_answer),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def img2img_steps(steps: int, strength: float, *, exact: bool = False) -> tuple[int, float]:
    """The schedule's length and the share of it to run, for img2img with A1111's meaning of `steps`.

    A1111 runs int(steps * strength) + 1 evaluations of a schedule of `steps`, at least one and at most all.
    `exact`, its hires pass: exactly `steps` evaluations, of a schedule that is longer by 1 / strength.
    Source: setup_img2img_steps and sample_img2img, A1111 1.10.
    """
    strength = min(strength, 0.999)
    if exact:
        schedule = min(int(steps / strength), TRAIN_STEPS) if strength > 0 else TRAIN_STEPS
        run = steps
    else:
        schedule, run = steps, int(strength * steps) + 1
    return schedule, min((run + 0.5) / schedule, 1.0)  # diffusers cuts schedule * share to an integer
