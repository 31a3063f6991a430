"""What is learned: from a noised picture, a prompt and a hint, the noise that was added."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from controlstack.errors import ControlError
from controlstack.hosts.embedded.checkpoint import Checkpoint
from controlstack.train.samples import CELL
from controlstack.train.text import Captions, Encoded


class Objective:
    """The locked base, and the loss of a ControlNet on it."""

    def __init__(self, base: Checkpoint, dtype: torch.dtype, min_snr: float | None = None) -> None:
        from diffusers import DDPMScheduler

        self.base, self.dtype, self.min_snr = base, dtype, min_snr
        self.schedule = DDPMScheduler.from_config(base.schedule)
        self.prediction = str(self.schedule.config.prediction_type)
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ControlError(
                f"The base predicts {self.prediction!r}", "Training knows the predictions eps and v"
            )
        self.captions = Captions(base)
        self.alphas = self.schedule.alphas_cumprod.to(base.device)

    @property
    def timesteps(self) -> int:
        return int(self.schedule.config.num_train_timesteps)

    def loss(self, net: Any, batch: dict[str, Any]) -> Tensor:
        """The mean squared error of a batch, see `samples.collate`; weighted if `min_snr` is set."""
        moved = {
            name: value.to(self.base.device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        noise, timestep = moved["noise"], moved["timestep"]
        latent = self.latent(moved)
        noised = self.schedule.add_noise(latent, noise, timestep).to(self.dtype)
        prompt = self.prompt(batch)
        context = prompt.context.to(self.dtype)
        added = self._added(moved, prompt, latent)
        skips, middle = net(
            noised, timestep, context, unit_range(moved["hint"]), added_cond_kwargs=added, return_dict=False
        )
        predicted = self.base.unet(
            *(noised, timestep, context),
            added_cond_kwargs=added,
            down_block_additional_residuals=[skip.to(self.dtype) for skip in skips],
            mid_block_additional_residual=middle.to(self.dtype),
            return_dict=False,
        )[0]
        is_v = self.prediction == "v_prediction"
        target = self.schedule.get_velocity(latent, noise, timestep) if is_v else noise
        if self.min_snr is None:
            return F.mse_loss(predicted.float(), target)
        errors = F.mse_loss(predicted.float(), target, reduction="none").mean((1, 2, 3))
        weighted: Tensor = errors * min_snr_weight(self.alphas[timestep], self.min_snr, is_v=is_v)
        return weighted.mean()

    @torch.no_grad()
    def latent(self, batch: dict[str, Any]) -> Tensor:
        """The pictures' latents "B 4 h w" as the UNet reads them: draws from what the VAE says."""
        if "latent" in batch:
            spread = batch.get("spread")
            mean: Tensor = batch["latent"].float()
            return mean if spread is None else mean + spread.float() * batch["draw"]
        mean, spread = self.encode(batch["picture"])
        drawn: Tensor = mean + spread * batch["draw"]
        return drawn

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the pictures' latents, both scaled."""
        vae = self.base.vae
        found = vae.encode(unit_range(pictures).to(vae.device) * 2 - 1).latent_dist
        return found.mean * vae.config.scaling_factor, found.std * vae.config.scaling_factor

    def rest(self) -> None:
        """Take what cached examples need no more off the device."""
        for name, part in self.base.nets().items():
            if name != "unet":
                part.to("cpu")

    def prompt(self, batch: dict[str, Any]) -> Encoded:
        """The prompts, empty where they are dropped; of a batch on the CPU, so nothing waits for a GPU."""
        if "context" not in batch:
            pairs = zip(batch["caption"], batch["kept"].tolist(), strict=True)
            return self.captions([text if keep else "" for text, keep in pairs])
        empty, kept = self.captions.empty, batch["kept"].to(self.base.device)
        context = torch.where(kept[:, None, None], batch["context"].to(empty.context), empty.context)
        if empty.pooled is None:
            return Encoded(context, None)
        return Encoded(context, torch.where(kept[:, None], batch["pooled"].to(empty.pooled), empty.pooled))

    def _added(self, batch: dict[str, Any], prompt: Encoded, latent: Tensor) -> dict[str, Tensor] | None:
        if prompt.pooled is None:
            return None
        sizes = batch.get("size")
        if sizes is None:
            height, width = (CELL * cells for cells in latent.shape[-2:])
            sizes = torch.tensor([height, width, 0, 0, height, width]).expand(len(latent), -1)
        return {
            "text_embeds": prompt.pooled.to(self.dtype),
            "time_ids": sizes.to(self.base.device, torch.float32),  # bf16 cannot tell 1016 px from 1017
        }


def unit_range(pixels: Tensor) -> Tensor:
    """Bytes as 0..1; what is a fraction already stays."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()


def min_snr_weight(alphas: Tensor, gamma: float, *, is_v: bool) -> Tensor:
    """The weight of each timestep by its cumulative alpha: min(SNR, γ) in units of the target's own weight.

    SNR = α / (1 - α); a prediction of eps weighs SNR by itself, one of v SNR + 1.
    Source: Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy, arXiv 2303.09556, 3.4.
    """
    snr = alphas / (1 - alphas)
    return snr.clamp(max=gamma) / (snr + 1) if is_v else (gamma / snr).clamp(max=1)
