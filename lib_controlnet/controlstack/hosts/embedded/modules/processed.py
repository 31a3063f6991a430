"""What a job has made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import controlstack

_TOLD = (
    "subseed_strength",
    "width",
    "height",
    "sampler_name",
    "cfg_scale",
    "steps",
    "batch_size",
    "denoising_strength",
    "extra_generation_params",
    "styles",
    "restore_faces",
    "seed_resize_from_w",
    "seed_resize_from_h",
    "clip_skip",
)
"""What is taken over from the job as it stands."""
_UNTOLD = ("images", "info")


class Processed:
    """The pictures of a job, which scripts may append to, and how they came about."""

    def __init__(  # noqa: PLR0917  the order that scripts know
        self,
        p: Any,
        images_list: list[Any],
        seed: int = -1,
        info: str = "",
        subseed: int | None = None,
        all_prompts: list[str] | None = None,
        all_negative_prompts: list[str] | None = None,
        all_seeds: list[int] | None = None,
        all_subseeds: list[int] | None = None,
        index_of_first_image: int = 0,
        infotexts: list[str] | None = None,
        comments: Mapping[str, Any] | None = None,
    ) -> None:
        for name in _TOLD:
            setattr(self, name, getattr(p, name))
        self.images, self.info, self.infotexts = images_list, info, infotexts or [info]
        self.index_of_first_image = index_of_first_image
        self.comments = p.comments if comments is None else comments
        self.all_prompts = all_prompts or p.all_prompts or [p.prompt]
        self.all_negative_prompts = all_negative_prompts or p.all_negative_prompts or [p.negative_prompt]
        self.all_seeds = all_seeds or p.all_seeds or [seed]
        self.all_subseeds = all_subseeds or p.all_subseeds or [p.subseed if subseed is None else subseed]
        self.prompt, self.negative_prompt = self.all_prompts[0], self.all_negative_prompts[0]
        self.seed, self.subseed = int(self.all_seeds[0]), int(self.all_subseeds[0])
        self.sd_model_name, self.sd_model_hash = p.sd_model.name, None
        self.sd_vae_name = self.sd_vae_hash = None
        self.is_using_inpainting_conditioning = bool(p.sd_model.wants_mask)
        self.job_timestamp = p.job_timestamp
        self.version = f"ControlStack {controlstack.__version__}"

    def js(self) -> str:
        """All but the pictures, as JSON."""
        told = {key: value for key, value in vars(self).items() if key not in _UNTOLD}
        return json.dumps({**told, "comments": list(self.comments)}, default=str)
