"""What every job has, with A1111's names and defaults, and one sampling pass of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from modules import cfg_callbacks, rng, shared
from PIL import Image
from torch import Tensor

from controlstack.hosts.embedded import pipeline, samplers
from controlstack.hosts.embedded.prompts import Prompts, encode

opt_C = 4  # noqa: N816  their name
opt_f = 8
"""Channels of the latents, and px to a latent cell."""

NOT_OFFERED = (
    "styles",
    "seed_resize_from_h",
    "seed_resize_from_w",
    "restore_faces",
    "tiling",
    "refiner_checkpoint",
)
"""Fields of A1111's that change nothing here; a job that sets one gets a comment."""


class DecodedSamples(list[Tensor]):
    """The pictures "3 H W" of a hires pass as the VAE answers, about -1..1.

    A1111 hands them to `post_sample` in place of latents.
    """

    already_decoded = True


@dataclass(repr=False)
class StableDiffusionProcessing:
    """A job. What its constructor does not take is filled in as it runs."""

    sd_model: Any = None
    outpath_samples: str | None = None
    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] | None = None
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    sampler_name: str | None = None
    scheduler: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 50
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    restore_faces: bool | None = None
    tiling: bool | None = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    extra_generation_params: dict[str, Any] = field(default_factory=dict)
    overlay_images: list[Image.Image] | None = None
    eta: float | None = None
    denoising_strength: float | None = None
    override_settings: dict[str, Any] = field(default_factory=dict)
    override_settings_restore_afterwards: bool = True
    refiner_checkpoint: str | None = None
    disable_extra_networks: bool = False
    depth_map: Image.Image | None = None
    """For checkpoints for depth, near is bright. Scripts may set it up to `process_before_every_sampling`."""

    scripts_value: Any = field(default=None, init=False)
    script_args_value: Any = field(default=None, init=False)
    scripts_setup_complete: bool = field(default=False, init=False)
    is_api: bool = field(default=False, init=False)
    is_hr_pass: bool = field(default=False, init=False)
    comments: dict[str, int] = field(default_factory=dict, init=False)
    iteration: int = field(default=0, init=False)
    job_timestamp: str = field(default="", init=False)
    prompts: list[str] = field(default_factory=list, init=False)
    negative_prompts: list[str] = field(default_factory=list, init=False)
    seeds: list[int] = field(default_factory=list, init=False)
    subseeds: list[int] = field(default_factory=list, init=False)
    all_prompts: list[str] = field(default_factory=list, init=False)
    all_negative_prompts: list[str] = field(default_factory=list, init=False)
    all_seeds: list[int] = field(default_factory=list, init=False)
    all_subseeds: list[int] = field(default_factory=list, init=False)
    extra_network_data: dict[str, Any] = field(default_factory=dict, init=False)
    rng: Any = field(default=None, init=False)
    sampler: Any = field(default=None, init=False)
    c: Any = field(default=None, init=False)
    paste_to: tuple[int, int, int, int] | None = field(default=None, init=False)
    mask_for_overlay: Image.Image | None = field(default=None, init=False)
    latents_after_sampling: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.sd_model = shared.sd_model
        name, schedule = samplers.split(self.sampler_name)
        self.sampler_name = name or self.sampler_name
        self.scheduler = schedule or self.known_schedule(self.scheduler) or samplers.AUTOMATIC

    @property
    def scripts(self) -> Any:
        """The tab's `ScriptRunner`."""
        return self.scripts_value

    @scripts.setter
    def scripts(self, runner: Any) -> None:
        self.scripts_value = runner
        self._setup_scripts()

    @property
    def script_args(self) -> Sequence[Any]:
        """The arguments of all scripts; each knows its place among them."""
        return self.script_args_value

    @script_args.setter
    def script_args(self, values: Sequence[Any]) -> None:
        self.script_args_value = values
        self._setup_scripts()

    def _setup_scripts(self) -> None:
        if self.scripts_value and self.script_args_value and not self.scripts_setup_complete:
            self.scripts_setup_complete = True
            self.scripts_value.setup_scrips(self)

    def known_schedule(self, name: str | None) -> str | None:
        """The noise schedule's label, None for no name; an unknown one is Automatic, with a comment."""
        found = samplers.find_schedule(name)
        if found is None:
            self.comment(f"The embedded host has no noise schedule {name}; it used {samplers.AUTOMATIC}.")
            return samplers.AUTOMATIC
        return found if name else None

    def comment(self, text: str) -> None:
        """Say something about this job to whoever asked for it."""
        self.comments[text] = 1

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        """Prepare what all batches share."""

    def sample(self) -> Tensor | DecodedSamples:
        """Sample one batch: final latents "B 4 h w", or the pictures of a hires pass."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what the job held."""
        self.sampler = self.c = None
        self.sd_model.pipe = None

    def image_rng(self, height: int, width: int) -> rng.ImageRNG:
        """The noise of this batch's pictures, for a size in latent cells."""
        return rng.ImageRNG((opt_C, height, width), self.seeds, self.subseeds, self.subseed_strength)

    def batch_facts(self) -> dict[str, Any]:
        """What the hooks of a batch are told."""
        return {
            "batch_number": self.iteration,
            "prompts": self.prompts,
            "seeds": self.seeds,
            "subseeds": self.subseeds,
        }

    @property
    def clip_skip(self) -> int:
        """The layer, from its end, that SD1's text encoder stops at."""
        return max(int(shared.opts.CLIP_stop_at_last_layers), 1)

    @property
    def zero_snr(self) -> bool:
        """Whether the noise is to end in noise alone, where the checkpoint does not say so itself."""
        return bool(shared.opts.sd_noise_schedule == "Zero Terminal SNR")

    @property
    def firstpass_steps(self) -> int:
        """How many evaluations of the UNet the steps of a job mean, by which its prompts change."""
        return samplers.SAMPLERS[str(self.sampler_name)].evaluations(self.steps)

    def encode_prompts(self, texts: list[str], negatives: list[str], **course: int) -> Prompts:
        """Encode the prompts of a batch as this job wants them; `course` as for `prompts.encode`."""
        usual = {"clip_skip": self.clip_skip, "evaluations": self.firstpass_steps}
        return encode(self.sd_model, texts, negatives, cfg=self.cfg_scale > 1, **(usual | course))

    def _eta(self, sampler: str) -> float | None:
        option = samplers.SAMPLERS[sampler].eta_option
        return getattr(shared.opts, option) if option and self.eta is None else self.eta

    def start(self, prompts: Prompts, **settings: Any) -> pipeline.Pass:
        """A pass of this batch with the job's settings, or others, and the next noise."""
        usual = {"steps": self.steps, "guidance": self.cfg_scale, "zero_snr": self.zero_snr}
        given = {"schedule": str(self.scheduler), "noise": self.rng.next(), **usual, **settings}
        return pipeline.Pass(prompts=prompts, generators=self.rng.generators, **given)

    def run_pass(self, start: pipeline.Pass, sampler: str) -> Tensor:
        """One sampling pass: its hook, a diffusers pipeline, callbacks at every evaluation of the UNet."""
        x, c = start.noise if start.init is None else start.init, start.prompts
        start = replace(pipeline.for_checkpoint(self.sd_model, start), eta=self._eta(sampler))
        for sentence in samplers.lacks(sampler, start.schedule, zero_snr=start.zero_snr):
            self.comment(sentence)
        shared.state.sampling_step = 0
        pipe = self.sampler = self.sd_model.pipe = pipeline.build(self.sd_model, sampler, start)
        self.scripts.process_before_every_sampling(self, x=x, noise=start.noise, c=c.cond, uc=c.uncond)
        depth = None if self.depth_map is None else np.asarray(self.depth_map.convert("L"))
        start = pipeline.with_depth(self.sd_model, start, depth)

        def on_step(running: Any, step: int) -> None:
            shared.state.sampling_step = step + 1
            if shared.state.interrupted or shared.state.skipped:
                running._interrupt = True  # the way out that diffusers documents for callbacks

        with cfg_callbacks.Evaluations(pipe).watched():
            self.latents_after_sampling = pipeline.run(pipe, start, on_step)
        return self.latents_after_sampling
