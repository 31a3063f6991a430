"""The base that the host paints with: a single file with LDM names, a diffusers folder, or random nets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from controlstack.errors import ControlError
from controlstack.hosts.embedded import random_nets, single_file
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


@dataclass
class Checkpoint:
    """A loaded base; WebUI scripts know it as `shared.sd_model`.

    components: the parts of a diffusers pipeline by diffusers' names, without the scheduler
    schedule: the configuration that a sampler's scheduler is built from
    zero_empty: SDXL: an empty negative prompt stands for zeros
    pipe: the pipeline of the running sampling pass
    """

    name: str
    components: dict[str, Any]
    schedule: dict[str, Any]
    path: Path | None = None
    zero_empty: bool = True
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
    def parameterization(self) -> str:
        return "v" if self.schedule.get("prediction_type") == "v_prediction" else "eps"

    @property
    def sd_checkpoint_info(self) -> SimpleNamespace:
        return SimpleNamespace(filename=str(self.path or ""), name=self.name, model_name=self.name)

    def to(self, device: torch.device) -> Checkpoint:
        """Move everything there; on CUDA all but the VAE works in half precision."""
        for name, part in self.components.items():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False).to(device)
                part.half() if device.type == "cuda" and name != "vae" else part.float()
        return self


def load(path: Path | None, device: torch.device, prediction: str | None = None) -> Checkpoint:
    """Load a base from a file, a diffusers folder, or, without a path, make random nets in SD1's layout.

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
        found = Checkpoint(path.stem, parts, {**TRAINED, "prediction_type": said}, path)
    else:
        raise ControlError(
            f"There is no checkpoint at {path}", fix="Give a .safetensors or .ckpt file or a diffusers folder"
        )
    if prediction is not None:
        found.schedule["prediction_type"] = {"v": "v_prediction", "eps": "epsilon"}[prediction]
    return found.to(device)


def _folder(path: Path) -> Checkpoint:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    classes = {c.__name__: c for c in (StableDiffusionPipeline, StableDiffusionXLPipeline)}
    index = StableDiffusionPipeline.load_config(str(path), local_files_only=True)
    kind = classes.get(str(index["_class_name"]))
    if kind is None:
        raise ControlError(
            f"The folder {path.name} holds a {index['_class_name']}",
            "The embedded host runs Stable Diffusion 1, 2 and XL",
            "Choose another checkpoint",
        )
    without: Mapping[str, Any] = {"safety_checker": None, "feature_extractor": None}
    if kind is StableDiffusionXLPipeline:
        without = {}
    pipe = kind.from_pretrained(str(path), local_files_only=True, **without)
    parts = {k: v for k, v in pipe.components.items() if k in single_file.PARTS and v is not None}
    zero_empty = bool(pipe.config.get("force_zeros_for_empty_prompt", False))
    return Checkpoint(path.name, parts, dict(pipe.scheduler.config), path, zero_empty)
