"""Train a ControlNet from a folder of pictures, hints and captions: `python -m controlstack.train`.

docs/train.md describes the folder and what comes out.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from threading import Event
from typing import Any

from controlstack import preprocess
from controlstack.errors import ControlError
from controlstack.hosts.embedded import checkpoint
from controlstack.train import folder
from controlstack.train.config import PRECISIONS, SCHEDULES, Config
from controlstack.train.trainer import train


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the folder, train, and say where the result is. Returns the exit code."""
    said = _parser().parse_args(arguments)
    _quiet_libraries()
    try:
        config = Config(**{field.name: getattr(said, field.name) for field in fields(Config)}).check()
        made = _hints(said)
        _say(f"Reading {said.data} ...")
        data = folder.load(said.data, made, said.size, crop=said.crop)
        shown = max(0, min(said.hold_out, len(data) - 1))
        _say(f"{len(data)} examples of {data.size[0]}x{data.size[1]} px, {shown} of them held out.")
        base = checkpoint.read(said.base, said.prediction)
        with stopping_on_signals() as stop:
            file = train(
                base,
                data.part(0, len(data) - shown),
                said.out,
                config,
                start=said.start,
                validation=data.part(len(data) - shown, None) if shown else None,
                resume=said.resume,
                stop=stop.is_set,
            )
    except ControlError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    _say(f"Stopped; --resume goes on. So far: {file}" if stop.is_set() else f"Done: {file}")
    return 0


def _quiet_libraries() -> None:
    """They warn about what a user can do nothing about."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # the first of several processes that train together
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


@contextmanager
def stopping_on_signals() -> Iterator[Event]:
    """Set by the first Ctrl-C or SIGTERM; the second one ends the process as ever."""
    stop = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])
        sys.stderr.write("\nStopping after this step ...\n")

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hints(said: argparse.Namespace) -> folder.Hints | None:
    if not said.preprocessor:
        return None
    found = preprocess.find(said.preprocessor)
    if found.embed is not None:
        raise ControlError(f"The preprocessor {found.label!r} makes no map", fix="Choose another one")
    return folder.Hints(found, said.resolution, said.threshold_a, said.threshold_b)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height or width)


def _decay(text: str) -> float | None:
    return float(text) or None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m controlstack.train", description=__doc__)
    _add_what(parser)
    _add_data(parser)
    _add_training(parser)
    _add_files(parser)
    return parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is trained")
    group.add_argument("--base", type=Path, required=True, help="checkpoint file or diffusers folder")
    group.add_argument("--data", type=Path, required=True, help="folder of pictures, hints and captions")
    group.add_argument("--out", type=Path, required=True, help="folder for everything that comes out")
    group.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in --out, if any"
    )
    group.add_argument("--start", type=Path, help="a ControlNet to train further, instead of a fresh copy")
    group.add_argument(
        "--prediction", choices=("eps", "v"), help="what the base predicts, if it does not say"
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--size", type=_size, help="N or WIDTHxHEIGHT in px; that of most pictures if not given"
    )
    group.add_argument("--crop", action="store_true", help="scale and cut pictures of other sizes")
    add = _adder(group)
    add("--hold-out", 4, "last examples, kept for the validation pictures only")
    group.add_argument(
        "--preprocessor", default="", help="make the hints with this, instead of reading hints/"
    )
    add("--resolution", -1.0, "for it, px; -1 is the pictures' own")
    add("--threshold-a", -1.0, "for it; -1 is its usual value")
    add("--threshold-b", -1.0, "for it; -1 is its usual value")
    group.add_argument("--cache-latents", action="store_true", help="run VAE and text encoders only once")
    add("--workers", Config.workers, "processes that read pictures; 0 reads them in the training process")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    add = _adder(group)
    add("--steps", Config.steps, "changes of the weights")
    add("--batch", Config.batch, "examples computed at once")
    add("--accumulate", Config.accumulate, "batches in a step")
    add("--learning-rate", Config.learning_rate, "its highest value")
    add("--schedule", Config.schedule, "of the learning rate after the warm-up", choices=SCHEDULES)
    add("--warmup", Config.warmup, "steps over which the learning rate rises")
    add("--weight-decay", Config.weight_decay, "of AdamW")
    add("--max-norm", Config.max_norm, "of the gradients")
    add("--prompt-dropout", Config.prompt_dropout, "share of the examples seen with an empty prompt")
    group.add_argument("--min-snr", type=float, help="gamma of min-SNR weighting, often 5; none if not given")
    group.add_argument("--ema", type=_decay, help="decay of a moving average, as 0.999; none if not given")
    group.add_argument(
        "--hint-channels",
        type=int,
        nargs=4,
        default=Config.hint_channels,
        help=f"widths of a fresh hint encoder {Config.hint_channels}",
    )
    add("--precision", Config.precision, "of the nets; what learns stays in fp32", choices=PRECISIONS)
    group.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    add("--seed", Config.seed, "of all that is drawn at random")
    group.add_argument("--cpu", action="store_true", help="even where there is a GPU")


def _add_files(parser: argparse.ArgumentParser) -> None:
    add = _adder(parser.add_argument_group("what comes out"))
    add("--name", Config.name, "of the model files")
    add("--save-every", Config.save_every, "steps between two checkpoints")
    add("--save-precision", Config.save_precision, "of the model files", choices=PRECISIONS)
    add("--validate-every", Config.validate_every, "steps between two sheets of validation pictures")
    add("--validation-steps", Config.validation_steps, "of their sampler")
    add("--guidance", Config.guidance, "of their sampler")


def _adder(group: Any) -> Callable[..., None]:
    def add(name: str, default: Any, what: str, **more: Any) -> None:
        group.add_argument(name, type=type(default), default=default, help=f"{what} ({default})", **more)

    return add


if __name__ == "__main__":
    sys.exit(main())
