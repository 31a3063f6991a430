"""A1111 1.10 as the extension sees it: nothing of the host is replaced, all goes through hooks that are taken
out again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from modules import call_queue, devices, lowvram, paths, script_callbacks, sd_models, sd_unet, shared
from torch import Tensor

from controlstack import progress
from controlstack.errors import ControlError
from controlstack.evaluation import Evaluation
from controlstack.hosts import unet_ldm
from controlstack.hosts.ledger import Ledger, rows
from controlstack.hosts.live_ldm import LiveLDM, base_of
from controlstack.hosts.neighbours import OWN
from controlstack.hosts.webui import LATE_WINDOW, WebUI
from controlstack.joints import Call, Services, Shadow
from controlstack.layout import Base
from controlstack.networks import Room
from controlstack.session import Session


class A1111(WebUI):
    """AUTOMATIC1111's stable-diffusion-webui and its close relatives."""

    def option(self, key: str, default: object) -> Any:
        return shared.opts.data.get(key, default)

    def flag(self, key: str) -> Any:
        return getattr(shared.cmd_opts, key, None)

    def model_folders(self) -> Sequence[Path]:
        chosen = (self.flag("controlnet_dir"), self.option("control_net_models_path", ""))
        return [
            *(Path(given) for given in chosen if given),
            self.models_path() / "ControlNet",
            OWN / "models",
        ]

    def models_path(self) -> Path:
        return Path(paths.models_path)

    def data_path(self) -> Path:
        return Path(paths.data_path)

    def checkpoint(self) -> Any:
        return sd_models.model_data.sd_model

    def device(self) -> torch.device:
        """The host's, or the CPU with --use-cpu controlnet."""
        chosen: torch.device = devices.get_device_for("controlnet")
        return chosen

    @contextmanager
    def telling(self) -> Iterator[None]:
        """The host shows such a text beside its progress bar."""

        def show(sentence: str, share: float | None) -> None:
            shared.state.textinfo = sentence if share is None else f"{sentence} ({share:.0%})"

        try:
            with progress.heard_by(show):
                yield
        finally:
            shared.state.textinfo = None

    def room(self) -> Room:
        """With --medvram and --lowvram the host knows what it has moved to the graphics card."""
        return lambda _size, _device: lowvram.send_everything_to_cpu()

    @property
    def lock(self) -> AbstractContextManager[Any]:
        return call_queue.queue_lock

    def base(self, p: Any) -> Base:
        if not hasattr(p.sd_model.model.diffusion_model, "input_blocks"):
            raise ControlError(
                "The checkpoint cannot be controlled",
                "It is neither of SD1, SD2 nor SDXL, and ControlNets for other kinds are not supported here",
                "Choose another checkpoint, or disable the units",
            )
        return base_of(p.sd_model)

    def services(self, p: Any) -> Services:
        return LiveLDM(p.sd_model, devices.get_device_for("controlnet"), devices.dtype_unet)

    def postprocess(self, p: Any, processed: Any) -> None:
        """The host has read the job's comments by now; programs get to see none of them, but parameters."""
        before = set(p.comments)
        super().postprocess(p, processed)
        if late := [comment for comment in p.comments if comment not in before]:
            processed.comments += "".join(f"{comment}\n" for comment in late)
            p.extra_generation_params[f"{self.name} note"] = " ".join(late)

    def attach(self, p: Any, session: Session) -> ExitStack:
        return Pass(self, p, session).attached()


class Pass:
    """A sampling pass with controls, in the UNet that runs now: a refiner may take its place."""

    def __init__(self, host: A1111, p: Any, session: Session) -> None:
        self.host, self.p, self.session = host, p, session
        self.live: Any = host.services(p)
        self.checkpoint = self.live.checkpoint
        self.ledger: Ledger | None = Ledger(())
        self.span = (0.0, 1.0)
        self.first_sigma: float | None = None
        self.unet_hooks = ExitStack()

    def attached(self) -> ExitStack:
        """Hook the UNet and hear the denoiser; closing the stack undoes both."""
        if self.session.failure is None:
            try:
                _check_not_replaced(self.live.unet)
                self._check_fit()
            except ControlError as error:
                self.session.fail(error)
        hooks = ExitStack()
        script_callbacks.on_cfg_denoiser(self.before_evaluation)
        hooks.callback(script_callbacks.remove_callbacks_for_function, self.before_evaluation)
        hooks.callback(self.leave_unet)
        self.enter_unet()
        return hooks

    def enter_unet(self) -> None:
        """Hook the UNet, or have it raise what failed, which no host swallows there."""
        if self.session.failure is None:
            self.unet_hooks = unet_ldm.attach(self.live.unet, self.on_call, self.session.joints)
        else:
            self.unet_hooks.callback(self.live.unet.register_forward_pre_hook(self._raise).remove)

    def leave_unet(self) -> None:
        """Take the hooks out of the UNet that has them."""
        self.unet_hooks.close()

    def before_evaluation(self, params: Any) -> None:
        """The host's `cfg_denoiser` callback, in which it would swallow an error."""
        denoiser = params.denoiser
        if denoiser.p is not self.p:  # a job that another extension runs meanwhile
            self.ledger = None
            return
        try:
            self._follow_refiner(params.x)
            self.ledger = self.plan_rows(params)
            self.span = self._span(denoiser, float(params.sigma.max()))
        except Exception as error:  # noqa: BLE001  kept, and raised at the UNet call that follows
            self.session.fail(error)

    def plan_rows(self, params: Any) -> Ledger:
        """The rows of the evaluation that is about to begin."""
        prompts = [len(conds) for conds in params.denoiser.sampler.sampler_extra_args["cond"].batch]
        return Ledger(rows(prompts, len(params.x)))

    def on_call(
        self, x: Tensor, t: Tensor, context: Tensor, y: Tensor | None, shadow: Shadow
    ) -> Evaluation | None:
        """The UNet is called with some rows of the evaluation."""
        if self.ledger is None:
            return None
        hires = bool(getattr(self.p, "is_hr_pass", False))
        return self.session.step(Call(x, t, context, y, self.ledger.take(len(x)), self.span, hires, shadow))

    def _raise(self, *_: object) -> None:
        if self.session.failure is not None:
            raise self.session.failure

    def _check_fit(self) -> None:
        """The controls fit the checkpoint of the first pass; that of hires fix may be of another kind."""
        base = self.host.base(self.p)
        hires = bool(getattr(self.p, "is_hr_pass", False))
        for plan in self.session.plans:
            for match in plan.matches if plan.schedule.acts_in(hires=hires) else ():
                if fault := match.base.mismatch(base):
                    raise ControlError(
                        "It does not fit the checkpoint of this pass",
                        fault,
                        "Let the unit act in the other pass only, or use a checkpoint of the same kind",
                    ).in_unit(plan.index)

    def _follow_refiner(self, x: Tensor) -> None:
        """The host has loaded another checkpoint: go on in its UNet, if the controls fit it."""
        live = self.host.services(self.p)
        if live.checkpoint == self.checkpoint:
            return
        self.leave_unet()
        self.live, self.checkpoint = live, live.checkpoint
        try:
            self._check_fit()
        except ControlError:
            self.p.comment("ControlNet ends where the refiner begins: it is another kind of checkpoint.")
            return
        hires = bool(getattr(self.p, "is_hr_pass", False))
        self.session.begin(x.shape[-1] * 8, x.shape[-2] * 8, live, hires=hires)
        self.enter_unet()

    def _span(self, denoiser: Any, sigma: float) -> tuple[float, float]:
        """The evaluation's share of the pass; with an adaptive sampler, how far the noise has come down, in
        its logarithm.

        The incumbent's is the host's step counter, which moves on after the UNet was called: 0, 0, 1, 2 … of
        the steps, so that a unit begins a step late and ends up to two late.
        """
        if self.host.option(LATE_WINDOW, default=False):
            counted = shared.state.sampling_step / max(shared.state.sampling_steps, 1)
            return counted, counted
        if denoiser.sampler.config.name == "DPM adaptive":
            self.first_sigma = self.first_sigma or sigma
            whole = math.log(self.first_sigma / float(denoiser.inner_model.sigmas[0]))
            done = min(max(math.log(self.first_sigma / sigma) / whole, 0.0), 1.0)
            return done, done
        count = _evaluations(denoiser)
        return min(denoiser.step / count, 1.0), min((denoiser.step + 1) / count, 1.0)


def _evaluations(denoiser: Any) -> int:
    """How often a pass evaluates. A second-order sampler does so twice in a step, but once in the last, which
    ends without noise. Restart repeats steps and does more."""
    sampler, steps = denoiser.sampler, denoiser.steps
    if sampler.config.options.get("second_order"):
        return int(2 * steps - 1)
    if not hasattr(sampler, "get_timesteps"):
        return int(steps)
    from_picture = denoiser.init_latent is not None
    timesteps = steps - 1 if from_picture else len(sampler.get_timesteps(denoiser.p, steps))
    return int(timesteps - sampler.config.name.startswith("DDIM"))


def _check_not_replaced(unet: Any) -> None:
    """Raises ControlError where something else computes in the UNet's place: hooks see nothing of it."""
    other = sd_unet.current_unet
    if other is not None:
        raise ControlError(
            "ControlNet cannot act in this UNet",
            f"{other.option.label} runs in place of the checkpoint's, and nothing can be added inside",
            "Set 'SD Unet' to None in the settings",
        )
    if hasattr(unet, "_orig_mod") or getattr(unet, "_compiled_call_impl", None) is not None:
        raise ControlError(
            "ControlNet cannot act in this UNet",
            "Something has compiled it with torch.compile, and nothing can be added inside",
            "Switch the compilation off",
        )
