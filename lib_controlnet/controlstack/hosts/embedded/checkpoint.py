"""The base that the host paints with: a single file with LDM names, a diffusers folder, or random nets."""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from controlstack.errors import ControlError
from controlstack.hosts.embedded import precision, random_nets, single_file
from controlstack.log import log

TRAINED = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
"""How SD1, SD2 and SDXL were trained, in diffusers' words (Stability's v1-inference.yaml and its like)."""
PUBLISHED_WIDTH = 320
"""Channels of the first level of SD1, SD2 and SDXL."""


@dataclass
class Checkpoint:
    """A loaded base; WebUI scripts know it as `shared.sd_model`.

    components: the parts of a diffusers pipeline by diffusers' names, without the scheduler
    schedule: the configuration that a sampler's scheduler is built from
    zero_empty: SDXL: an empty negative prompt stands for zeros
    device: where it computes
    pipe: the pipeline of the running sampling pass
    """

    name: str
    components: dict[str, Any]
    schedule: dict[str, Any]
    path: Path | None = None
    zero_empty: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    pipe: Any = field(default=None, repr=False)

    @property
    def unet(self) -> Any:
        return self.components["unet"]

    @property
    def vae(self) -> Any:
        return self.components["vae"]

    @property
    def is_sdxl(self) -> bool:
        return "text_encoder_2" in self.components

    @property
    def is_sd2(self) -> bool:
        return not self.is_sdxl and bool(self.unet.config.use_linear_projection)

    @property
    def is_sd1(self) -> bool:
        return not (self.is_sdxl or self.is_sd2)

    @property
    def size(self) -> int:
        """The px at which it paints well. Nets narrower than any published one are demos, made at 128."""
        if self.unet.config.block_out_channels[0] < PUBLISHED_WIDTH:
            return 128
        return 1024 if self.is_sdxl else 512

    @property
    def parameterization(self) -> str:
        return "v" if self.schedule.get("prediction_type") == "v_prediction" else "eps"

    def is_called(self, name: str) -> bool:
        """Whether this is the name of the base, with or without a hash or a file's ending, in any case."""
        asked = name.partition(" [")[0].removesuffix(".safetensors").removesuffix(".ckpt")
        return asked.lower() == self.name.lower()

    @property
    def sd_checkpoint_info(self) -> SimpleNamespace:
        return SimpleNamespace(filename=str(self.path or ""), name=self.name, model_name=self.name)

    @property
    def wants_depth(self) -> bool:
        """Whether its UNet sees a depth picture beside the latents."""
        return bool(self.unet.config.in_channels == self.vae.config.latent_channels + 1)

    @property
    def wants_mask(self) -> bool:
        """Whether its UNet sees a mask and the picture behind it beside the latents."""
        return bool(self.unet.config.in_channels == 2 * self.vae.config.latent_channels + 1)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Checkpoint:
        """Move everything there, in this precision, the device's usual one for None; the VAE stays single."""
        self.prepare(dtype or precision.usual(device))
        for part in self.nets().values():
            part.to(device)
        self.device = device
        return self

    def prepare(self, dtype: torch.dtype) -> None:
        """Ready to run where it lies."""
        for name, part in self.nets().items():
            part.eval().requires_grad_(False).to(torch.float32 if name == "vae" else dtype)

    def nets(self) -> dict[str, torch.nn.Module]:
        return {name: part for name, part in self.components.items() if isinstance(part, torch.nn.Module)}


def load(path: Path | None, device: torch.device, prediction: str | None = None) -> Checkpoint:
    """Load a base and move it to the device; see `read`."""
    return read(path, prediction).to(device)


def read(path: Path | None, prediction: str | None = None) -> Checkpoint:
    """A base from a file or a diffusers folder, or, without a path, random nets in SD1's layout; on the CPU.

    prediction: "eps" or "v"; None reads it from the file or folder where it says so, else eps.
    Raises ControlError for what is no base.
    """
    if path is None:
        log.warning("No checkpoint is given: painting with small random nets, so pictures are textures.")
        found = Checkpoint("random SD1-shaped nets", random_nets.sd1(), dict(TRAINED))
    elif path.is_dir():
        found = _folder(path)
    elif path.is_file():
        parts, said = single_file.load(path)
        found = Checkpoint(path.stem, parts, {**TRAINED, **said}, path)
    else:
        raise ControlError(
            f"There is no checkpoint at {path}", fix="Give a .safetensors or .ckpt file or a diffusers folder"
        )
    if prediction is not None:
        found.schedule["prediction_type"] = {"v": "v_prediction", "eps": "epsilon"}[prediction]
    return found


PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionDepth2ImgPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)
"""What the folders of bases say they are."""


def _folder(path: Path) -> Checkpoint:
    import diffusers

    said = str(diffusers.DiffusionPipeline.load_config(str(path), local_files_only=True)["_class_name"])
    if said not in PIPELINES:
        raise ControlError(
            f"The folder {path.name} holds a {said}",
            "The embedded host runs Stable Diffusion 1, 2 and XL",
            "Choose another checkpoint",
        )
    kind = getattr(diffusers, said)
    spare = ("safety_checker", "feature_extractor", "image_encoder", "depth_estimator")
    without: dict[str, Any] = {name: None for name in spare if name in signature(kind.__init__).parameters}
    pipe = kind.from_pretrained(str(path), local_files_only=True, **without)
    parts = {k: v for k, v in pipe.components.items() if k in single_file.PARTS and v is not None}
    zero_empty = bool(pipe.config.get("force_zeros_for_empty_prompt", False))
    return Checkpoint(path.name, parts, dict(pipe.scheduler.config), path, zero_empty)
