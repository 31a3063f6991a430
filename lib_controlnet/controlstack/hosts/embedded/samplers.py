"""The samplers and their noise schedules by A1111's names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from controlstack.joints import Prediction

_FAIL_IN_0_31 = {
    (kind, key)
    for kind in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
    for key in ("use_exponential_sigmas", "use_beta_sigmas")
}


class Sampler(NamedTuple):
    """A diffusers scheduler, and what it is told beyond the checkpoint's schedule.

    usual: the noise schedule that "Automatic" means
    options: what A1111's API says about it
    eta_option: the setting with its share of new noise, "" where none is drawn
    """

    kind: str
    aliases: tuple[str, ...]
    told: Mapping[str, Any] = MappingProxyType({})
    usual: str = "Uniform"
    options: Mapping[str, str] = MappingProxyType({})
    eta_option: str = ""

    def evaluations(self, steps: int) -> int:
        """How often A1111 says that so many steps run the UNet."""
        return steps * (2 if "second_order" in self.options else 1)

    @property
    def scheduler(self) -> Any:
        """The scheduler's class."""
        import diffusers

        from controlstack.hosts.embedded import schedulers

        return getattr(schedulers, self.kind, None) or getattr(diffusers, self.kind)

    def takes(self, key: str) -> bool:
        """Whether its scheduler has this setting, and one that works."""
        import diffusers

        if diffusers.__version__.startswith("0.31.") and (self.kind, key) in _FAIL_IN_0_31:
            return False
        return key in inspect.signature(self.scheduler.__init__).parameters


class NoiseSchedule(NamedTuple):
    """Where on the noise scale the steps lie, as diffusers is told."""

    name: str
    aliases: tuple[str, ...]
    told: dict[str, Any]
    rho: float = -1


SAMPLERS = {
    "Euler": Sampler("EulerDiscreteScheduler", ("k_euler",)),
    "Euler a": Sampler(
        "EulerAncestralDiscreteScheduler",
        ("k_euler_a", "k_euler_ancestral"),
        options={"uses_ensd": "True"},
        eta_option="eta_ancestral",
    ),
    "DPM++ 2M": Sampler(
        "DPMSolverMultistepScheduler",
        ("k_dpmpp_2m",),
        {"algorithm_type": "dpmsolver++"},
        usual="Karras",
        options={"scheduler": "karras"},
    ),
    "Heun": Sampler("HeunDiscreteScheduler", ("k_heun",), options={"second_order": "True"}),
    "DDIM": Sampler("DDIMScheduler", ("ddim",), eta_option="eta_ddim"),
    "UniPC": Sampler("UniPCMultistepScheduler", ("unipc",)),
    "LCM": Sampler("LCMScheduler", ("k_lcm",)),
}
"""The default first."""

AUTOMATIC = "Automatic"
SCHEDULES = {
    AUTOMATIC: NoiseSchedule("automatic", (), {}),
    "Uniform": NoiseSchedule("uniform", (), {}),
    "Karras": NoiseSchedule("karras", (), {"use_karras_sigmas": True}, rho=7.0),
    "Exponential": NoiseSchedule("exponential", (), {"use_exponential_sigmas": True}),
    "SGM Uniform": NoiseSchedule("sgm_uniform", ("SGMUniform",), {"timestep_spacing": "trailing"}),
    "Beta": NoiseSchedule("beta", (), {"use_beta_sigmas": True}),
}
"""By A1111's labels. Source of what diffusers is told: its table "Schedulers", A1111/k-diffusion."""

DEFAULT = next(iter(SAMPLERS))
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""Noise that ends in noise alone, and steps that start there (Lin et al. 2023, arXiv 2305.08891)."""


def find(name: str | None) -> str | None:
    """The sampler's name as listed, found by name or alias in any case, the default for no name.

    The name may end in that of a noise schedule, which `split` finds. None if there is none.
    """
    return split(name)[0]


def split(name: str | None) -> tuple[str | None, str | None]:
    """The sampler and the noise schedule in a name like "DPM++ 2M Karras"; None for what is not in it."""
    wanted = (name or DEFAULT).lower()
    if found := _SAMPLER_NAMES.get(wanted):
        return found, None
    for spelling, label in _SCHEDULE_NAMES.items():
        if found := _SAMPLER_NAMES.get(wanted.removesuffix(f" {spelling}")):
            return found, label
    return None, None


def find_schedule(name: str | None) -> str | None:
    """The noise schedule's label, found by label, name or alias in any case, Automatic for no name."""
    return _SCHEDULE_NAMES.get((name or AUTOMATIC).lower())


def scheduler(
    sampler: str,
    trained: Mapping[str, Any],
    schedule: str = "Uniform",
    *,
    steps: int = 0,
    zero_snr: bool = False,
) -> Any:
    """A new scheduler for one sampling pass of a checkpoint with this training schedule.

    What the sampler's scheduler does not know is left out; `lacks` says so beforehand.
    """
    chosen = SAMPLERS[sampler]
    told = dict(chosen.told)
    if steps == 1:
        told["timestep_spacing"] = "trailing"  # the other spacings' only step is the one with the least noise
    if zero_snr or trained.get("rescale_betas_zero_snr"):
        told |= ZERO_SNR
    told |= {k: v for k, v in _meant(sampler, schedule).told.items() if chosen.takes(k)}
    return chosen.scheduler.from_config(trained, **told)


def meaning(scheduler: Any, sigma: Any) -> Prediction:
    """What the UNet's output means to a scheduler where there is σ times as much noise as picture."""
    signal = 1 / (1 + sigma**2) ** 0.5
    return Prediction(signal, sigma * signal, scheduler.config.prediction_type)


def meaning_at(scheduler: Any, evaluation: int, timestep: Any) -> Prediction:
    """The same at the UNet's nth evaluation of a pass, counted from 0."""
    if hasattr(scheduler, "sigmas"):  # exact where the UNet's timestep may be rounded
        return meaning(scheduler, scheduler.sigmas[(scheduler.begin_index or 0) + evaluation])
    alpha = scheduler.alphas_cumprod[int(timestep)]
    return Prediction(alpha.sqrt(), (1 - alpha).sqrt(), scheduler.config.prediction_type)


def lacks(sampler: str, schedule: str, *, zero_snr: bool = False) -> list[str]:
    """Sentences on what was asked for and this sampler cannot do."""
    chosen = SAMPLERS[sampler]
    sentences = []
    if not all(map(chosen.takes, _meant(sampler, schedule).told)):
        sentences.append(
            f"The embedded host has no {schedule} noise schedule for {sampler}; it used its own."
        )
    if zero_snr and not all(map(chosen.takes, ZERO_SNR)):
        sentences.append(f"The embedded host has no zero terminal SNR for {sampler}; it was ignored.")
    return sentences


def _meant(sampler: str, schedule: str) -> NoiseSchedule:
    return SCHEDULES[SAMPLERS[sampler].usual if schedule == AUTOMATIC else schedule]


_SAMPLER_NAMES = {
    spelling.lower(): name for name, sampler in SAMPLERS.items() for spelling in (name, *sampler.aliases)
}
_SCHEDULE_NAMES = {
    spelling.lower(): label
    for label, schedule in SCHEDULES.items()
    for spelling in (label, schedule.name, *schedule.aliases)
}
