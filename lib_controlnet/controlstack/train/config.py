"""What a training is told: one frozen object, which its folder remembers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import cos, pi
from typing import Any

from controlstack.errors import ControlError

SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Config:
    """How to train. A step is one change of the weights, by `batch` × `accumulate` × processes examples.

    name: of the model files that come out
    steps: where training ends
    batch: examples that are computed at once
    accumulate: batches whose gradients are summed for one step
    learning_rate: its highest value
    schedule: the learning rate after the warm-up: constant, or down to 0 at the last step
    warmup: steps over which the learning rate rises from 0
    weight_decay: of AdamW
    max_norm: gradients longer than this are shortened to it
    prompt_dropout: share of the examples that are seen with an empty prompt
    min_snr: gamma of min-SNR weighting, None for equal weights at all timesteps
    ema: decay of the moving average of the weights that is saved and shown, None for the weights themselves
    hint_channels: widths of a fresh hint encoder; four of them reduce the hint eightfold, as the VAE does
    precision: that of the nets while they train; the weights that learn stay in fp32
    gradient_checkpointing: compute activations twice instead of storing them
    cache_latents: compute latents, hints and prompts once and keep them in files
    seed: of everything drawn at random
    save_every: steps between two checkpoints, which are what a killed training goes on from
    validate_every: steps between two sheets of validation pictures
    validation_steps, guidance: how those are sampled
    save_precision: of the model files
    preprocessor: what made the hints, told in the model files
    workers: processes that read pictures; 0 reads them in the training process
    cpu: stay on the CPU even where there is a GPU
    """

    name: str = "controlnet"
    steps: int = 10_000
    batch: int = 4
    accumulate: int = 1
    learning_rate: float = 1e-5
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 1e-2
    max_norm: float = 1.0
    prompt_dropout: float = 0.5
    min_snr: float | None = None
    ema: float | None = None
    hint_channels: tuple[int, ...] = (16, 32, 96, 256)
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    cache_latents: bool = False
    seed: int = 0
    save_every: int = 500
    validate_every: int = 500
    validation_steps: int = 20
    guidance: float = 7.5
    save_precision: str = "fp16"
    preprocessor: str = ""
    workers: int = 0
    cpu: bool = False

    def check(self) -> Config:
        """The same object. Raises ControlError for a number that makes no sense."""
        for name in ("steps", "batch", "accumulate", "save_every", "validate_every", "validation_steps"):
            _demand(getattr(self, name) >= 1, name, "must be at least 1")
        for name in ("workers", "warmup"):
            _demand(getattr(self, name) >= 0, name, "must not be negative")
        _demand(self.learning_rate > 0, "learning_rate", "must be above 0")
        _demand(0 <= self.prompt_dropout <= 1, "prompt_dropout", "must be from 0 to 1")
        _demand(self.ema is None or 0 < self.ema < 1, "ema", "must be between 0 and 1")
        _demand(self.min_snr is None or self.min_snr > 0, "min_snr", "must be above 0")
        _demand(self.schedule in SCHEDULES, "schedule", f"must be one of {', '.join(SCHEDULES)}")
        for name in ("precision", "save_precision"):
            _demand(getattr(self, name) in PRECISIONS, name, f"must be one of {', '.join(PRECISIONS)}")
        return self

    def rate(self, step: int) -> float:
        """The learning rate of step 0, 1 …"""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        shares = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + cos(pi * done)) / 2}
        return self.learning_rate * shares[self.schedule]

    def deciding(self) -> dict[str, Any]:
        """The settings that the weights depend on: a training can only go on with the same ones."""
        settings = asdict(self)
        for name in _FREE:
            del settings[name]
        if self.schedule == "constant":
            del settings["steps"]
        return settings


_FREE = (
    *("name", "save_every", "validate_every", "validation_steps", "guidance", "save_precision"),
    *("preprocessor", "workers", "cpu"),
)
"""Settings that change nothing in the weights."""


def _demand(fine: bool, name: str, rule: str) -> None:
    if not fine:
        raise ControlError(f"The training's {name} {rule}")
