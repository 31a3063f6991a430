"""What a job has made."""

from __future__ import annotations

import json
from typing import Any

_TOLD = (
    "all_prompts",
    "all_negative_prompts",
    "all_seeds",
    "all_subseeds",
    "width",
    "height",
    "sampler_name",
    "cfg_scale",
    "steps",
    "batch_size",
    "denoising_strength",
    "extra_generation_params",
)
"""What is taken over from the job as it stands."""


class Processed:
    """The pictures of a job, which scripts may append to, and how they came about."""

    def __init__(
        self, p: Any, images_list: list[Any], info: str = "", infotexts: list[str] | None = None
    ) -> None:
        self.images = images_list
        self.info = info
        self.infotexts = infotexts or [info]
        self.comments = p.comments
        self.index_of_first_image = 0
        for name in _TOLD:
            setattr(self, name, getattr(p, name))
        self.prompt, self.negative_prompt = p.all_prompts[0], p.all_negative_prompts[0]
        self.seed, self.subseed = int(p.all_seeds[0]), int(p.all_subseeds[0])
        self.sd_model_name = p.sd_model.name

    def js(self) -> str:
        """All but the pictures, as JSON."""
        told = {key: value for key, value in vars(self).items() if key not in ("images", "info")}
        return json.dumps({**told, "comments": list(self.comments)}, default=str)
