"""The loop: a locked base, a copy of its encoder that learns, and whatever survives a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from controlstack.errors import ControlError
from controlstack.hosts.embedded.checkpoint import Checkpoint
from controlstack.hosts.embedded.precision import DTYPES
from controlstack.train import cache, encoder_copy, lock, saving
from controlstack.train.checkpoints import Checkpoints
from controlstack.train.config import Config
from controlstack.train.files import whole
from controlstack.train.history import History
from controlstack.train.objective import Objective
from controlstack.train.samples import CELL, Examples, Numbers, Samples, collate
from controlstack.train.validation import Validation

LOGGED = 10
"""Steps between two looks at the loss: each waits for the device."""


def train(
    base: Checkpoint,
    data: Examples,
    out: Path,
    config: Config | None = None,
    *,
    start: Path | None = None,
    validation: Examples | None = None,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Train a ControlNet for this base and return its file, `out`/model/NAME.safetensors.

    base: it is moved to the training's device, in its precision; nothing else of it changes
    start: a ControlNet to train further; None begins with a copy of the base's encoder
    validation: a few examples whose pictures are made again and again; None makes none
    resume: go on from the last checkpoint in `out` if there is one
    stop: asked after every step; once true, the training saves its state and ends early
    Raises ControlError for settings or data that cannot be trained with, for a folder in which another
    training runs, and for a loss that is no number.
    """
    trainer = Trainer(base, data, out, config or Config(), start=start, validation=validation)
    first = trainer.accelerator.is_main_process
    with trainer.borrowed_base(), lock.alone(out) if first else nullcontext():
        return trainer.run(resume=resume, stop=stop)


class Trainer:
    """One training; `train` says what the parts are."""

    def __init__(
        self,
        base: Checkpoint,
        data: Examples,
        out: Path,
        config: Config,
        *,
        start: Path | None,
        validation: Examples | None,
    ) -> None:
        self.config, self.out, self.data = config.check(), out, data
        _check(data)
        self.accelerator = _accelerator(config)
        self.about = {
            "base": base.name,
            "base_hash": saving.fingerprint(base),
            **({"preprocessor": config.preprocessor} if config.preprocessor else {}),
        }
        self.start = "" if start is None else str(start.name)
        self.net = (
            encoder_copy.load(base.unet, start)
            if start
            else encoder_copy.copy(base.unet, config.hint_channels, config.seed)
        )
        base.to(self.accelerator.device, DTYPES[config.precision])
        self.objective = Objective(base, DTYPES[config.precision], config.min_snr)
        self.model, self.optimizer = self.accelerator.prepare(
            self.net,
            torch.optim.AdamW(self.net.parameters(), config.learning_rate, weight_decay=config.weight_decay),
        )
        self.average = self._moving_average()
        shown = validation if self.accelerator.is_main_process else None
        self.validation = (
            Validation(self.objective, shown, config) if shown is not None and len(shown) else None
        )

    @contextmanager
    def borrowed_base(self) -> Iterator[None]:
        """The base's UNet set up for this training, and then as it was."""
        unet, nets = self.objective.base.unet, (self.objective.base.unet, self.net)
        before = unet.attn_processors
        if self.accelerator.device.type == "cpu":
            _attend_plainly(nets)
        if self.config.gradient_checkpointing:
            for net in nets:
                net.enable_gradient_checkpointing()
            unet.train()  # or diffusers before 0.33 stores its activations; it has no dropout
        try:
            yield
        finally:
            unet.set_attn_processor(before)
            unet.disable_gradient_checkpointing()
            unet.eval()

    def run(self, *, resume: bool, stop: Callable[[], bool]) -> Path:
        """Train to the last step, or until `stop`; see `train`."""
        config, accelerator = self.config, self.accelerator
        checkpoints = Checkpoints(self.out)
        first = checkpoints.begin(self._settings(), resume=resume, write=accelerator.is_main_process)
        if config.cache_latents:
            self.data = self._cached()
        if first:
            checkpoints.load(accelerator, first)
            if self.average is not None:
                self.average.to(accelerator.device)
        accelerator.wait_for_everyone()
        history = History(self.out, first) if accelerator.is_main_process else None
        batches = self._batches(first)
        losses: list[torch.Tensor] = []
        with self._bar(first) as bar:
            for step in range(first, config.steps):
                losses.append(self._step(step, batches))
                done, stopped = step + 1, self._stops(stop)
                last = stopped or done == config.steps
                if last or done % LOGGED == 0 or done % config.save_every == 0:
                    self._log(history, losses, done, bar)
                    losses = []
                if last or done % config.save_every == 0:
                    checkpoints.save(accelerator, done)
                    self._save(done)
                if last or done % config.validate_every == 0:
                    self._show(history, done)
                bar.update()
                if stopped:
                    break
        if first >= config.steps:  # it may have been killed before it wrote its last files
            self._save(first)
            self._show(history, first)
        return self.file

    @property
    def file(self) -> Path:
        """The trained net with LDM's names."""
        return self.out / "model" / f"{self.config.name}.safetensors"

    def _step(self, step: int, batches: Iterator[dict[str, Any]]) -> torch.Tensor:
        """Change the weights once; the loss."""
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(step)
        total = torch.zeros((), device=accelerator.device)
        for _ in range(config.accumulate):
            with accelerator.accumulate(self.model):
                loss = self.objective.loss(self.model, next(batches))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.model.parameters(), config.max_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
                total += loss.detach() / config.accumulate
        if self.average is not None:
            self.average.step(self.net.parameters())
        return total

    def _stops(self, stop: Callable[[], bool]) -> bool:
        """Whether to end now: all processes have to agree."""
        if self.accelerator.num_processes == 1:
            return stop()
        if stop():
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())

    def _batches(self, first: int) -> Iterator[dict[str, Any]]:
        config, accelerator = self.config, self.accelerator
        samples = Samples(self.data, config.seed, config.prompt_dropout, self.objective.timesteps)
        numbers = Numbers(
            first * config.accumulate, config.batch, accelerator.num_processes, accelerator.process_index
        )
        return iter(
            DataLoader(
                samples,
                batch_sampler=numbers,
                collate_fn=collate,
                num_workers=config.workers,
                pin_memory=accelerator.device.type == "cuda",
            )
        )

    def _log(self, history: History | None, losses: list[torch.Tensor], done: int, bar: Any) -> None:
        found = self.accelerator.reduce(torch.stack(losses), "mean").tolist()
        if broken := [i for i, loss in enumerate(found) if not math.isfinite(loss)]:
            raise ControlError(
                f"The loss of step {done - len(found) + broken[0] + 1} is no number",
                "The weights have grown beyond what numbers can hold",
                "Begin again in another folder, with a lower learning rate or a longer warm-up",
            )
        if history is not None:
            history.add(found, [self.config.rate(step) for step in range(done - len(found), done)])
        bar.set_postfix(loss=f"{sum(found) / len(found):.4f}")

    def _save(self, done: int) -> None:
        if self.accelerator.is_main_process:
            with self._averaged():
                about = {**self.about, "steps": str(done)}
                saving.save(self.net, self.file, self.config.save_precision, about)

    def _show(self, history: History | None, done: int) -> None:
        """The plot and the validation pictures."""
        if history is not None:
            history.plot()
        if self.validation is None:
            return
        with self._averaged():
            sheet = self.validation.sheet(self.net)
        with whole(self.out / "validation" / f"{done:07}.png") as part:
            sheet.save(part, "PNG")

    def _moving_average(self) -> Any:
        if self.config.ema is None:
            return None
        from diffusers.training_utils import EMAModel

        average = EMAModel(self.net.parameters(), decay=self.config.ema, foreach=True)
        average.to(self.accelerator.device)
        self.accelerator.register_for_checkpointing(average)
        return average

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The net has its moving average for weights, if there is one."""
        if self.average is None:
            yield
            return
        self.average.store(self.net.parameters())
        self.average.copy_to(self.net.parameters())
        try:
            yield
        finally:
            self.average.restore(self.net.parameters())

    def _cached(self) -> Examples:
        from accelerate.utils import tqdm

        known = self._fingerprint()
        name = sha256(f"{self.about['base_hash']} {known}".encode()).hexdigest()[:16]
        cached = cache.Cached(self.out / "cache" / name, len(self.data), known)
        with self.accelerator.main_process_first():
            cache.fill(cached, self.data, self.objective, tqdm)
        self.objective.rest()
        return cached

    def _fingerprint(self) -> str:
        return str(getattr(self.data, "fingerprint", f"{len(self.data)} examples"))

    def _settings(self) -> dict[str, Any]:
        return {
            **self.config.deciding(),
            "processes": self.accelerator.num_processes,
            "base": self.about["base_hash"],
            "start": self.start,
            "data": self._fingerprint(),
        }

    def _bar(self, first: int) -> Any:
        from accelerate.utils import tqdm

        return tqdm(initial=first, total=self.config.steps, unit="step", dynamic_ncols=True)


def _accelerator(config: Config) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise ControlError(
            "Training needs the package accelerate", fix="Install it: pip install accelerate"
        ) from error
    on_cpu = config.cpu or not torch.cuda.is_available()
    if config.precision == "fp16" and on_cpu:
        raise ControlError("fp16 trains on a GPU only", fix="Choose the precision bf16 or fp32")
    try:
        return Accelerator(
            mixed_precision="no" if config.precision == "fp32" else config.precision,
            gradient_accumulation_steps=config.accumulate,
            cpu=config.cpu,
        )
    except ValueError as error:
        raise ControlError(
            "This process has trained in another precision or on another device",
            "accelerate cannot change them",
            "Train in a process of its own",
        ) from error


def _attend_plainly(nets: Iterable[Any]) -> None:
    """Without torch's fused attention, whose way back on a CPU takes half of a step with small heads."""
    from diffusers.models.attention_processor import AttnProcessor

    for net in nets:
        net.set_attn_processor(AttnProcessor())


def _check(data: Examples) -> None:
    """Whether the first example has what training needs; `folder` checks all of a folder."""
    if not len(data):
        raise ControlError("There is nothing to train with", "The data set is empty")
    example = data[0]
    if "hint" not in example or not {"picture", "latent"} & example.keys():
        raise ControlError(
            "An example needs a hint, and a picture or its latent", f"It has {', '.join(example)}"
        )
    if not {"caption", "context"} & example.keys():
        raise ControlError("An example needs a caption, or its encoding as context")
    height, width = example["hint"].shape[-2:]
    seen = (
        example["picture"].shape[-2:]
        if "picture" in example
        else [CELL * n for n in example["latent"].shape[-2:]]
    )
    if (height, width) != tuple(seen) or height % CELL or width % CELL:
        raise ControlError(
            f"The hint is {width}x{height} px and the picture {seen[1]}x{seen[0]} px",
            f"They must have one size, in multiples of {CELL}",
        )
