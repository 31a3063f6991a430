"""An infotext put back into the page's fields and into those of scripts, as A1111 does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from modules import infotext_utils, script_callbacks

from controlstack.hosts.embedded import page_gradio

Source = str | Callable[[dict[str, Any]], Any]
"""The name of a parameter, or a function of all of them; None leaves the field as it is."""


class Target(NamedTuple):
    """A component, and where its value comes from."""

    component: Any
    source: Source


_SOURCES: dict[str, Source] = {
    "prompt": "Prompt",
    "negative_prompt": "Negative prompt",
    "steps": "Steps",
    "sampler_name": "Sampler",
    "scheduler": "Schedule type",
    "cfg_scale": "CFG scale",
    "seed": "Seed",
    "width": "Size-1",
    "height": "Size-2",
    "batch_size": "Batch size",
    "subseed": "Variation seed",
    "subseed_strength": lambda told: told.get("Variation seed strength", 0),
    "denoising_strength": "Denoising strength",
    "enable_hr": lambda told: "Hires upscaler" in told or "Hires upscale" in told,
    "hr_upscaler": "Hires upscaler",
    "hr_scale": "Hires upscale",
    "hr_second_pass_steps": "Hires steps",
    "mask_blur": "Mask blur",
}


def targets(fields: Mapping[str, Any], scripts: Iterable[Any]) -> list[Target]:
    """The tab's fields and what its scripts name in `infotext_fields`."""
    found = [Target(component, _SOURCES[name]) for name, component in fields.items() if name in _SOURCES]
    for script in scripts:
        found += [Target(field[0], field[1]) for field in script.infotext_fields or ()]
    return found


def read(text: str) -> dict[str, Any]:
    """The parameters of an infotext, with what extensions make of them; none of an empty one."""
    parameters: dict[str, Any] = infotext_utils.parse_generation_parameters(text) if text.strip() else {}
    script_callbacks.infotext_pasted_callback(text, parameters)
    return parameters


def updates(text: str, targets: Iterable[Target]) -> list[Any]:
    """A change for each target; none where the infotext says nothing of it or a value it cannot have."""
    parameters = read(text) if text and text.strip() else {}
    return [_update(target, parameters) for target in targets]


def _update(target: Target, parameters: dict[str, Any]) -> Any:
    if not parameters:
        return page_gradio.update()
    source = target.source
    value = source(parameters) if callable(source) else parameters.get(source)
    if value is None:
        return page_gradio.update()
    if not isinstance(value, str):
        return value if isinstance(value, dict) else page_gradio.update(value=value)
    fitting = _of_kind(value, target.component)
    return page_gradio.update() if fitting is None else page_gradio.update(value=fitting)


def _of_kind(text: str, component: Any) -> Any:
    """The text as the component's value, None if it cannot be one."""
    now = component.value
    if isinstance(now, bool):
        return text.strip().lower() not in ("false", "0", "")
    if isinstance(now, (int, float)):
        try:
            number = float(text)
        except ValueError:
            return None
        return int(number) if number.is_integer() else number
    choices = getattr(component, "choices", None)
    if choices:
        values = [choice[1] if isinstance(choice, (tuple, list)) else choice for choice in choices]
        return text if text in values or getattr(component, "allow_custom_value", False) else None
    return text
