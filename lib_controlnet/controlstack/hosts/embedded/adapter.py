"""The embedded host as the extension sees it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from modules import call_queue, devices, paths, shared
from torch import Tensor

from controlstack.evaluation import Evaluation
from controlstack.hosts import unet_diffusers
from controlstack.hosts.embedded import latents
from controlstack.hosts.webui import WebUI
from controlstack.joints import Call
from controlstack.layout import Base
from controlstack.session import Session


class LiveUNet(unet_diffusers.LiveUNet):
    """Computes where the host does, even while its weights lie elsewhere to save memory."""

    @property
    def device(self) -> torch.device:
        return devices.device

    def encode(self, picture: Tensor) -> Tensor:
        with torch.no_grad():
            return latents.encode(self.vae, picture)


class Embedded(WebUI):
    """diffusers' pipelines behind A1111's script contract."""

    def option(self, key: str, default: object) -> Any:
        return shared.opts.data.get(key, default)

    def flag(self, key: str) -> Any:
        return getattr(shared.cmd_opts, key, None)

    def model_folders(self) -> Sequence[Path]:
        given = self.flag("controlnet_dir")
        return [*([Path(given)] if given else []), Path(paths.models_path) / "ControlNet"]

    @property
    def lock(self) -> AbstractContextManager[Any]:
        return call_queue.queue_lock

    def base(self, p: Any) -> Base:
        return unet_diffusers.base_of(p.sd_model.unet)

    def services(self, p: Any) -> LiveUNet:
        model = p.sd_model
        return LiveUNet(model.unet, model.pipe.scheduler, model.vae)

    def attach(self, p: Any, session: Session) -> ExitStack:
        prompts = p.sampler.start.prompts

        def step(call: Call) -> Evaluation | None:
            """With the rows of prompts that AND joins."""
            return session.step(replace(call, rows=prompts.rows(len(call.x))))

        return unet_diffusers.follow(
            p.sd_model.unet,
            step,
            session.joints,
            pictures=p.batch_size,
            evaluations=lambda: p.sd_model.pipe.num_timesteps,
            hires=p.is_hr_pass,
        )
