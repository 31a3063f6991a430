"""The embedded host as the extension sees it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from modules import call_queue, devices, paths, shared
from PIL import Image

from controlstack import control_types, image
from controlstack.evaluation import Evaluation
from controlstack.hosts import unet_diffusers
from controlstack.hosts.embedded.live_unet import LiveUNet
from controlstack.hosts.webui import WebUI
from controlstack.joints import Call
from controlstack.layout import Base
from controlstack.plan import Plan
from controlstack.session import Session

_DEPTH = "Depth"


class Embedded(WebUI):
    """diffusers' pipelines behind A1111's script contract."""

    _depth: Image.Image | None = None
    """What a checkpoint for depth was shown last by a unit."""

    def option(self, key: str, default: object) -> Any:
        return shared.opts.data.get(key, default)

    def flag(self, key: str) -> Any:
        return getattr(shared.cmd_opts, key, None)

    def model_folders(self) -> Sequence[Path]:
        given = self.flag("controlnet_dir")
        return [*([Path(given)] if given else []), self.models_path() / "ControlNet"]

    def models_path(self) -> Path:
        return Path(paths.models_path)

    def data_path(self) -> Path:
        return Path(paths.data_path)

    def checkpoint(self) -> Any:
        return shared.sd_model

    def device(self) -> torch.device:
        return devices.get_device_for("controlnet")

    @property
    def lock(self) -> AbstractContextManager[Any]:
        return call_queue.queue_lock

    def base(self, p: Any) -> Base:
        return unet_diffusers.base_of(p.sd_model.unet)

    def services(self, p: Any) -> LiveUNet:
        model = p.sd_model
        return LiveUNet(model.unet, model.pipe.scheduler, model.vae, devices.device)

    def attach(self, p: Any, session: Session) -> ExitStack:
        if p.sd_model.wants_depth:
            self._show_depth(p, session)
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

    def _show_depth(self, p: Any, session: Session) -> None:
        """Let a checkpoint for depth paint after the map of the first depth unit, at the size of this pass.

        A picture that came with the job goes first.
        """
        if p.depth_map is not None and p.depth_map is not self._depth:
            return
        height, width = (8 * cells for cells in p.sampler.start.noise.shape[-2:])
        maps = [m for plan in session.plans if _is_depth(plan) for m in session.maps(plan.index)]
        fitting = [image.hwc3(m) for m in maps if m.shape[:2] == (height, width)]
        if fitting:
            self._depth = p.depth_map = Image.fromarray(fitting[0])
        elif session.failure is not None:  # raised at the first UNet call, which this lets come
            self._depth = p.depth_map = Image.new("L", (width, height))


def _is_depth(plan: Plan) -> bool:
    """Whether a unit's map is depth: by its preprocessor, or, for a map that needs none, by its model."""
    if plan.preprocessor.name != "none":
        return _DEPTH in plan.preprocessor.control_types
    (depth,) = (kind for kind in control_types.everything([plan.unit.model]) if kind.name == _DEPTH)
    return plan.unit.model in depth.models
