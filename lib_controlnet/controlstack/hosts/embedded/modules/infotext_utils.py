"""A1111's infotext: how a picture came about, in one paragraph."""

from __future__ import annotations

import json
from typing import Any


def quote(value: object) -> str:
    """A value as it stands in an infotext: as JSON if it has a comma, a colon or a line break."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(",\n:") else text


def create_infotext(p: Any, index: int) -> str:
    """The infotext of the job's picture `index`."""
    parameters = {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "CFG scale": p.cfg_scale,
        "Seed": p.all_seeds[index],
        "Size": f"{p.width}x{p.height}",
        "Model": p.sd_model.name.replace(",", "").replace(":", ""),
        **{key: _of_picture(value, index) for key, value in p.extra_generation_params.items()},
    }
    line = ", ".join(f"{key}: {quote(value)}" for key, value in parameters.items() if value is not None)
    negative = p.all_negative_prompts[index]
    return "\n".join([p.all_prompts[index], *([f"Negative prompt: {negative}"] if negative else []), line])


def _of_picture(value: Any, index: int) -> Any:
    """A script may give one value for each picture."""
    return value[index] if isinstance(value, list) else value
