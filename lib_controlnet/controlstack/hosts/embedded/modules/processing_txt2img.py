"""Pictures from prompts alone, and hires fix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from modules import shared
from modules.processing_base import DecodedSamples, StableDiffusionProcessing, opt_f
from PIL import Image
from torch import Tensor

from controlstack.hosts.embedded import latents, pipeline, samplers

LATENT_UPSCALERS: dict[str, dict[str, Any]] = {
    "Latent": {"mode": "bilinear"},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic"},
    "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "Latent (nearest)": {"mode": "nearest"},
    "Latent (nearest-exact)": {"mode": "nearest-exact"},
}
"""A1111's names, and how `interpolate` is called."""
SAME_SAMPLER, SAME_SCHEDULE = "Use same sampler", "Use same scheduler"
PIXEL_UPSCALERS = {
    "None": Image.Resampling.LANCZOS,
    "Lanczos": Image.Resampling.LANCZOS,
    "Nearest": Image.Resampling.NEAREST,
}


@dataclass(repr=False)
class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    """With `enable_hr` a second pass refines the enlarged result of the first."""

    enable_hr: bool = False
    denoising_strength: float | None = 0.75
    hr_scale: float = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    hr_upscale_to_x: int = field(default=0, init=False)
    hr_upscale_to_y: int = field(default=0, init=False)
    truncate_x: int = field(default=0, init=False)
    truncate_y: int = field(default=0, init=False)

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        if not self.enable_hr:
            return
        self.hr_upscaler = self.hr_upscaler or next(iter(LATENT_UPSCALERS))
        if self.hr_upscaler not in {**LATENT_UPSCALERS, **PIXEL_UPSCALERS}:
            raise ValueError(f"could not find upscaler named {self.hr_upscaler}")
        if self.hr_sampler_name == SAME_SAMPLER:
            self.hr_sampler_name = None
        if samplers.find(self.hr_sampler_name) is None:
            raise ValueError(f"could not find sampler named {self.hr_sampler_name}")
        self.hr_scheduler = (
            None if self.hr_scheduler == SAME_SCHEDULE else self.known_schedule(self.hr_scheduler)
        )
        self.calculate_target_resolution()
        told = self.extra_generation_params
        told["Denoising strength"] = self.denoising_strength
        if self.hr_resize_x or self.hr_resize_y:
            told["Hires resize"] = f"{self.hr_resize_x}x{self.hr_resize_y}"
        else:
            told["Hires upscale"] = self.hr_scale
        if self.hr_second_pass_steps:
            told["Hires steps"] = self.hr_second_pass_steps
        told["Hires upscaler"] = self.hr_upscaler
        told["Hires sampler"] = self.hr_sampler_name
        told["Hires schedule type"] = self.hr_scheduler
        told["Hires prompt"] = self.hr_prompt or None
        told["Hires negative prompt"] = self.hr_negative_prompt or None

    def calculate_target_resolution(self) -> None:
        """The enlarged size in px, and the latent cells to cut off where it is more than asked for."""
        x, y = self.hr_resize_x, self.hr_resize_y
        if not x and not y:
            self.hr_upscale_to_x = int(self.width * self.hr_scale)
            self.hr_upscale_to_y = int(self.height * self.hr_scale)
            return
        if x * self.height > y * self.width:
            self.hr_upscale_to_x, self.hr_upscale_to_y = x, x * self.height // self.width
        else:
            self.hr_upscale_to_x, self.hr_upscale_to_y = y * self.width // self.height, y
        self.truncate_x = (self.hr_upscale_to_x - x) // opt_f if x else 0
        self.truncate_y = (self.hr_upscale_to_y - y) // opt_f if y else 0

    def sample(self) -> Tensor | DecodedSamples:
        samples = self.run_pass(self.start(self.c), str(self.sampler_name))
        ended = shared.state.interrupted or shared.state.skipped
        return self._sample_hr(samples) if self.enable_hr and not ended else samples

    def _sample_hr(self, samples: Tensor) -> DecodedSamples:
        self.is_hr_pass = True
        enlarged = self._truncated(self._enlarged(samples))
        self.rng = self.image_rng(*enlarged.shape[2:])
        self.scripts.after_extra_networks_activate(
            self, **self.batch_facts(), extra_network_data=self.extra_network_data
        )
        count = len(self.prompts)
        sampler, schedule = samplers.split(self.hr_sampler_name or self.sampler_name)
        steps = self.hr_second_pass_steps or self.steps
        prompts = self.encode_prompts(
            [self.hr_prompt] * count if self.hr_prompt else self.prompts,
            [self.hr_negative_prompt] * count if self.hr_negative_prompt else self.negative_prompts,
            evaluations=samplers.SAMPLERS[str(sampler)].evaluations(steps),
            before=self.firstpass_steps,
        )
        self.scripts.before_hr(self)
        steps, strength = pipeline.img2img_steps(steps, self.denoising_strength or 0.0, exact=True)
        schedule = schedule or self.hr_scheduler or str(self.scheduler)
        start = self.start(prompts, init=enlarged, steps=steps, strength=strength, schedule=schedule)
        refined = self.run_pass(start, str(sampler))
        self.is_hr_pass = False
        return DecodedSamples(latents.decode_raw(self.sd_model.vae, refined))

    def _enlarged(self, samples: Tensor) -> Tensor:
        width, height = self.hr_upscale_to_x, self.hr_upscale_to_y
        if how := LATENT_UPSCALERS.get(str(self.hr_upscaler)):
            return F.interpolate(samples, (height // opt_f, width // opt_f), **how)
        method = PIXEL_UPSCALERS[str(self.hr_upscaler)]
        pictures = []
        for decoded in latents.decode(self.sd_model.vae, samples):
            picture = Image.fromarray((decoded * 255).round().byte().permute(1, 2, 0).cpu().numpy())
            pixels = np.asarray(picture.resize((width, height), method), np.float32) / 255
            pictures.append(torch.from_numpy(pixels).permute(2, 0, 1))
        return latents.encode(self.sd_model.vae, torch.stack(pictures)).to(samples)

    def _truncated(self, samples: Tensor) -> Tensor:
        top, left = self.truncate_y // 2, self.truncate_x // 2
        bottom = samples.shape[2] - (self.truncate_y + 1) // 2
        right = samples.shape[3] - (self.truncate_x + 1) // 2
        return samples[:, :, top:bottom, left:right]
