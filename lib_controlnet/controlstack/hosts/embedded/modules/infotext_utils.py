"""A1111's infotext: how a picture came about, in one paragraph, written and read back."""

from __future__ import annotations

import json
import re
from typing import Any

import controlstack

_PARAMETER = re.compile(r'\s*(?P<key>\w[\w \-/]*):\s*(?P<value>"(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)x(\d+)")
_NEGATIVE = "Negative prompt:"
_FEWEST = 3
"""A last line with fewer parameters than this belongs to the prompt."""


def quote(value: object) -> str:
    """A value as it stands in an infotext: as JSON if it has a comma, a colon or a line break."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(",\n:") else text


def unquote(text: str) -> str:
    """The value again; what only looks quoted stays as it is."""
    if not (len(text) > 1 and text[0] == text[-1] == '"'):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return str(value)


def create_infotext(p: Any, index: int) -> str:
    """The infotext of the job's picture `index`."""
    varied = p.subseed_strength != 0
    told = {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "Schedule type": p.scheduler,
        "CFG scale": p.cfg_scale,
        "Seed": p.all_seeds[index],
        "Size": f"{p.width}x{p.height}",
        "Model": p.sd_model.name.replace(",", "").replace(":", ""),
        "Variation seed": p.all_subseeds[index] if varied else None,
        "Variation seed strength": p.subseed_strength if varied else None,
        "Denoising strength": None,
        "Clip skip": p.clip_skip if p.clip_skip > 1 else None,
        **{key: _of_picture(p, value, index) for key, value in p.extra_generation_params.items()},
        "Version": f"ControlStack {controlstack.__version__}",
    }
    parameters = {key: value for key, value in told.items() if value is not None}
    line = ", ".join(key if key == value else f"{key}: {quote(value)}" for key, value in parameters.items())
    negative = p.all_negative_prompts[index]
    return "\n".join([p.all_prompts[index], *([f"{_NEGATIVE} {negative}"] if negative else []), line])


def _of_picture(p: Any, value: Any, index: int) -> Any:
    """A script may give one value for each picture, or a function of what is known about it."""
    if callable(value):
        lists = {name: getattr(p, name) for name in ("all_prompts", "all_seeds", "all_subseeds", "comments")}
        return value(
            p=p, index=index, iteration=p.iteration, all_negative_prompts=p.all_negative_prompts, **lists
        )
    return value[index] if isinstance(value, list) else value


def parse_generation_parameters(text: str) -> dict[str, str]:
    """The prompt, the negative prompt and every parameter of an infotext, sizes as two numbers."""
    *lines, last = text.strip().split("\n")
    found = list(_PARAMETER.finditer(last))
    if len(found) < _FEWEST:
        lines, found = [*lines, last], []
    parts: dict[bool, list[str]] = {False: [], True: []}
    negative = False
    for line in map(str.strip, lines):
        negative = negative or line.startswith(_NEGATIVE)
        parts[negative].append(line.removeprefix(_NEGATIVE).strip() if not parts[True] and negative else line)
    parameters = {"Prompt": "\n".join(parts[False]), "Negative prompt": "\n".join(parts[True])}
    for parameter in found:
        key, value = parameter["key"], unquote(parameter["value"].strip())
        if size := _SIZE.fullmatch(value):
            parameters[f"{key}-1"], parameters[f"{key}-2"] = size.groups()
        else:
            parameters[key] = value
    return parameters
