"""What diffusers' schedulers lack."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from controlstack.hosts.embedded import samplers


class EulerAncestralDiscreteScheduler(diffusers.EulerAncestralDiscreteScheduler):
    """With `eta`, the share of the noise that is drawn anew at each step: 1 is diffusers' own, 0 is Euler."""

    usual_eta = 1.0

    def step(  # noqa: PLR0917  diffusers' signature
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
        eta: float = usual_eta,
    ) -> Any:
        """Source of the split of the noise: `get_ancestral_step`, crowsonkb/k-diffusion."""
        if eta == self.usual_eta:
            return super().step(model_output, timestep, sample, generator, return_dict)
        if self.step_index is None:
            self._init_step_index(timestep)
        now, then = self.sigmas[self.step_index], self.sigmas[self.step_index + 1]
        drawn = eta * (then**2 * (now**2 - then**2) / now**2) ** 0.5
        left = (then**2 - drawn**2) ** 0.5
        sample = sample.float()
        meaning = samplers.meaning(self, now)
        x0 = meaning.denoised(sample * meaning.signal, model_output)
        stepped = x0 + (sample - x0) * (left / now)
        if drawn > 0:
            noise = randn_tensor(
                model_output.shape, dtype=model_output.dtype, device=model_output.device, generator=generator
            )
            stepped = stepped + noise * drawn
        self._step_index += 1
        stepped = stepped.to(model_output.dtype)
        if not return_dict:
            return stepped, x0
        return diffusers.schedulers.scheduling_euler_ancestral_discrete.EulerAncestralDiscreteSchedulerOutput(
            prev_sample=stepped, pred_original_sample=x0
        )
