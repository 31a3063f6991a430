"""The samplers by A1111's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
}
"""Name -> a diffusers scheduler and what it is told beyond the checkpoint's schedule; the default first."""

DEFAULT = next(iter(SAMPLERS))


def find(name: str | None) -> str | None:
    """The sampler's name as listed, found in any case, the default for no name; None if there is none."""
    return {key.lower(): key for key in SAMPLERS}.get((name or DEFAULT).lower())


def scheduler(name: str, schedule: Mapping[str, Any]) -> Any:
    """A new scheduler for one sampling pass of a checkpoint with this training schedule."""
    import diffusers

    kind, told = SAMPLERS[name]
    return getattr(diffusers, kind).from_config(schedule, **told)
