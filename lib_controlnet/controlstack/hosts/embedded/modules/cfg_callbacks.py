"""A1111's three callbacks around every evaluation of the UNet, for one pass of a diffusers pipeline.

A1111's samplers work on the denoised picture x0, diffusers' schedulers on what the UNet says, so what a
script changes in x0 is carried over to that. Rows come in A1111's order: those of the prompts, then, unless
there is no CFG, one of the negative prompt for each picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from modules import script_callbacks, shared
from torch import Tensor

from controlstack.hosts.embedded import pipeline, samplers
from controlstack.joints import Prediction, RowKind

LATENT = 4
"""Channels of the latents; those behind them belong to checkpoints for inpainting and depth."""


class Evaluations:
    """The evaluations of one pass, counted from 0."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._evaluation = 0
        self._negative = 0
        self._x = self._pictures = torch.empty(0)
        self._meaning: Prediction

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Fire the callbacks while the pipeline runs."""
        scheduler = self._pipe.scheduler
        step = scheduler.step

        @wraps(step)  # the pipeline looks up which arguments it takes
        def stepped(output: Tensor, *args: Any, **kwargs: Any) -> Any:
            return step(self._after_cfg(output), *args, **kwargs)

        scheduler.step = stepped
        try:
            with pipeline.watched(self._pipe.unet, self._before, self._after):
                yield
        finally:
            scheduler.step = step

    def _before(self, called: dict[str, Any]) -> None:
        sample = called["sample"]
        pictures = len(self._pipe.start.noise)
        rows = self._pipe.start.prompts.rows(len(sample))
        self._negative = sum(row.kind is RowKind.UNCOND for row in rows)
        self._pictures = sample[:pictures, :LATENT]  # every picture's first row, of one prompt or the other
        self._meaning = samplers.meaning_at(self._pipe.scheduler, self._evaluation, called["timestep"])
        shared.state.sampling_steps = self._pipe.num_timesteps
        shared.state.current_latent = self._pictures[0]
        theirs, context = self._theirs(sample), called["encoder_hidden_states"]
        params = script_callbacks.CFGDenoiserParams(
            x=theirs[:, :LATENT],
            image_cond=theirs[:, LATENT:] if sample.shape[1] > LATENT else None,
            sigma=(self._meaning.noise / self._meaning.signal).to(sample).expand(len(sample)),
            text_cond=context[self._negative :],
            text_uncond=context[: self._negative] if self._negative else None,
            denoiser=self._pipe,
            **_progress(self._pipe),
        )
        script_callbacks.cfg_denoiser_callback(params)
        self._x = self._ours(params.x)
        images, texts = (params.x, params.image_cond), (params.text_uncond, params.text_cond)
        called["sample"] = self._ours(torch.cat([part for part in images if part is not None], dim=1))
        called["encoder_hidden_states"] = torch.cat([part for part in texts if part is not None])

    def _after(self, output: Tensor) -> Tensor:
        self._evaluation += 1

        def denoised(x0: Tensor) -> Tensor:
            params = script_callbacks.CFGDenoisedParams(
                x=self._theirs(x0), inner_model=self._pipe.unet, **_progress(self._pipe)
            )
            rows = params.x  # A1111 goes on with these rows, whatever `x` is afterwards
            script_callbacks.cfg_denoised_callback(params)
            return self._ours(rows)

        return self._edited("cfg_denoised", self._x, output, denoised)

    def _after_cfg(self, output: Tensor) -> Tensor:
        def after_cfg(x0: Tensor) -> Tensor:
            params = script_callbacks.AfterCFGCallbackParams(x=x0.clone(), **_progress(self._pipe))
            script_callbacks.cfg_after_cfg_callback(params)
            return params.x

        return self._edited("cfg_after_cfg", self._pictures, output, after_cfg)

    def _edited(self, kind: str, x: Tensor, output: Tensor, edit: Callable[[Tensor], Tensor]) -> Tensor:
        """The UNet's output after an edit of the x0 that it means; itself to the bit where nobody listens."""
        if not script_callbacks.is_listened_to(kind):
            return output
        x0 = self._meaning.denoised(x.float(), output.float())
        change = edit(x0).to(x0) - x0
        return (output.float() + self._meaning.output_change(change)).to(output.dtype)

    def _theirs(self, rows: Tensor) -> Tensor:
        return torch.cat([rows[self._negative :], rows[: self._negative]])

    def _ours(self, rows: Tensor) -> Tensor:
        positive = len(rows) - self._negative
        return torch.cat([rows[positive:], rows[:positive]])


def _progress(pipe: Any) -> dict[str, int]:
    return {"sampling_step": shared.state.sampling_step, "total_sampling_steps": pipe.num_timesteps}
