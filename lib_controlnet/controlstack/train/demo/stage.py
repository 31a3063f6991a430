"""One stage of making the demo models: a loop that can be killed and goes on where it was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from controlstack.log import log
from controlstack.train.demo.muon import Muon

SAVE_EVERY = 120.0
"""s"""
WARM_UP = 100
"""Steps until the learning rate is reached; it falls along a cosine to 2 % of it at the end."""


def train(
    file: Path,
    nets: Mapping[str, nn.Module],
    loss: Callable[[int], Tensor],
    steps: int,
    rate: float,
    *,
    plain: tuple[Tensor, ...] = (),
    look: Callable[[int], None] | None = None,
) -> None:
    """Train the nets, and leave their moving averages in them.

    file: the state is kept here, every two minutes and at the end; what it holds is gone on from
    loss: of the step with this number; it draws everything it draws at random from that number
    plain: parameters that are no matrices to rotate, such as a table of tokens
    look: called with the averages in the nets whenever the state was saved
    """
    parameters: list[Tensor] = [p for net in nets.values() for p in net.parameters() if p.requires_grad]
    optimizer = Muon(parameters, rate, plain)
    average = [p.detach().clone() for p in parameters]
    first = 0
    if file.exists():
        state = torch.load(file, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        with torch.no_grad():
            torch._foreach_copy_(parameters, state["parameters"])
            torch._foreach_copy_(average, state["average"])
    saved = time.monotonic()
    since, seen, total = saved, 0, 0.0
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * _share(step, steps)
        torch.manual_seed(step)
        found = loss(step)
        found.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - min(0.998, (step + 1) / (step + 20)))
        seen, total = seen + 1, total + found.item()
        if seen == 50 or step + 1 == steps:
            pace = seen / (time.monotonic() - since)
            log.info(
                "%s: step %d of %d, loss %.4f, %.2f steps/s", file.stem, step + 1, steps, total / seen, pace
            )
            since, seen, total = time.monotonic(), 0, 0.0
        if time.monotonic() - saved > SAVE_EVERY or step + 1 == steps:
            _save(file, step + 1, optimizer, parameters, average)
            if look:
                _swap(parameters, average)
                look(step + 1)
                _swap(parameters, average)
            saved = since = time.monotonic()
            seen, total = 0, 0.0
    _swap(parameters, average)


def _share(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARM_UP)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _save(file: Path, step: int, optimizer: Muon, parameters: list[Tensor], average: list[Tensor]) -> None:
    unfinished = file.with_suffix(".part")
    state = {"step": step, "optimizer": optimizer.state_dict(), "average": average}
    torch.save({**state, "parameters": [p.detach() for p in parameters]}, unfinished)
    unfinished.replace(file)


@torch.no_grad()
def _swap(parameters: list[Tensor], average: list[Tensor]) -> None:
    for parameter, mean in zip(parameters, average, strict=True):
        kept = parameter.detach().clone()
        parameter.copy_(mean)
        mean.copy_(kept)
