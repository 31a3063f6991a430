"""Train a ControlNet from a folder of pictures, hints and captions: `python -m controlstack.train`.

docs/train.md describes the folder and what comes out.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from threading import Event

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
    return folder.Hints(found, said.resolution, said.threshold_a, said.threshold_b)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height or width)


def _decay(text: str) -> float | None:
    return float(text) or None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m controlstack.train",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    needed = parser.add_argument_group("what is trained")
    needed.add_argument("--base", type=Path, required=True, help="checkpoint file or diffusers folder")
    needed.add_argument("--data", type=Path, required=True, help="folder of pictures, hints and captions")
    needed.add_argument("--out", type=Path, required=True, help="folder for everything that comes out")
    needed.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    needed.add_argument("--start", type=Path, help="a ControlNet to train further, instead of a fresh copy")
    needed.add_argument(
        "--prediction", choices=("eps", "v"), help="what the base predicts, if it does not say"
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--size", type=_size, help="N or WIDTHxHEIGHT in px; that of most pictures if not given"
    )
    data.add_argument("--crop", action="store_true", help="scale and cut pictures of other sizes")
    data.add_argument(
        "--hold-out", type=int, default=4, help="last examples kept for validation pictures only"
    )
    data.add_argument(
        "--preprocessor", default="", help="make the hints with this, instead of reading hints/"
    )
    data.add_argument("--resolution", type=float, default=-1, help="for it, px; -1 is the pictures' own")
    data.add_argument("--threshold-a", type=float, default=-1, help="for it; -1 is its own")
    data.add_argument("--threshold-b", type=float, default=-1, help="for it; -1 is its own")
    data.add_argument("--cache-latents", action="store_true", help="run VAE and text encoders only once")
    data.add_argument("--workers", type=int, default=Config.workers, help="processes that read pictures")
    loop = parser.add_argument_group("training")
    loop.add_argument("--steps", type=int, default=Config.steps)
    loop.add_argument("--batch", type=int, default=Config.batch)
    loop.add_argument("--accumulate", type=int, default=Config.accumulate, help="batches in a step")
    loop.add_argument("--learning-rate", type=float, default=Config.learning_rate)
    loop.add_argument("--schedule", choices=SCHEDULES, default=Config.schedule)
    loop.add_argument("--warmup", type=int, default=Config.warmup, help="steps")
    loop.add_argument("--weight-decay", type=float, default=Config.weight_decay)
    loop.add_argument("--max-norm", type=float, default=Config.max_norm, help="of the gradients")
    loop.add_argument("--prompt-dropout", type=float, default=Config.prompt_dropout)
    loop.add_argument("--min-snr", type=float, help="gamma, often 5; not given: no weighting")
    loop.add_argument("--ema", type=_decay, help="decay of a moving average, as 0.999")
    loop.add_argument(
        "--hint-channels", type=int, nargs=4, default=Config.hint_channels, help="of a fresh copy"
    )
    loop.add_argument("--precision", choices=PRECISIONS, default=Config.precision)
    loop.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    loop.add_argument("--seed", type=int, default=Config.seed)
    loop.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    out = parser.add_argument_group("what comes out")
    out.add_argument("--name", default=Config.name, help="of the model files")
    out.add_argument("--save-every", type=int, default=Config.save_every, help="steps")
    out.add_argument("--save-precision", choices=PRECISIONS, default=Config.save_precision)
    out.add_argument("--validate-every", type=int, default=Config.validate_every, help="steps")
    out.add_argument("--validation-steps", type=int, default=Config.validation_steps, help="of the sampler")
    out.add_argument("--guidance", type=float, default=Config.guidance, help="of the sampler")
    return parser


if __name__ == "__main__":
    sys.exit(main())
