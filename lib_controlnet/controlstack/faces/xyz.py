"""The axes of the X/Y/Z grid, by the incumbent's labels, and what may stand in their fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from controlstack import control_types, preprocess
from controlstack.errors import ControlError
from controlstack.faces import remote
from controlstack.hosts.webui import WebUI
from controlstack.unit import ControlMode, ResizeMode

_ITEM = re.compile(r'\s*(\[(?:[^\[\]]|\[[^\]]*\])*\]|"[^"]*"|[^,]+)')
"""Between commas: "[a, b]", with models' hashes in brackets within, a text in quotes, or anything else."""
_RANGE = re.compile(
    r"(?P<first>[+-]?[\d.]+)\s*-\s*(?P<last>[+-]?[\d.]+)\s*"
    r"(?:\(\s*(?P<step>[+-]?[\d.]+)\s*\)|\[\s*(?P<count>\d+)\s*\])?"
)
_LEAVE = ("", "none")
"""What leaves a unit as it is, in any case."""

Reader = Callable[[str], object]
Choices = Callable[[], list[str]]


@dataclass(frozen=True)
class Axis:
    """One axis: every value counts for all units that are on, and "[a, b]" is one value for each unit.

    attribute: what it sets on the job, see `remote`
    read: from one text to the value; raises ControlError
    choices: what its dropdown offers
    cost: how slow a change is, 0..1; the grid changes the slowest axis least often
    """

    label: str
    attribute: str
    read: Reader
    choices: Choices | None = None
    cost: float = 0.0

    def values(self, text: str) -> list[object]:
        """Every value that a field of the grid's page names."""
        return [value for item in _items(text) for value in self._expanded(item)]

    def value(self, given: object) -> object:
        """One value, from a field or a dropdown."""
        if not isinstance(given, str):
            return given
        if given.startswith("[") and given.endswith("]"):
            return [self.value(one.strip()) for one in given[1:-1].split(",")]
        return None if given.strip().lower() in _LEAVE else self.read(given.strip())

    def _expanded(self, item: str) -> Iterator[object]:
        span = _RANGE.fullmatch(item) if self.read in (_fraction, _whole) else None
        yield from map(self.read, _numbers(span)) if span else [self.value(item)]


def _items(text: str) -> list[str]:
    found = (item.strip().strip('"') for item in _ITEM.findall(text))
    return [item for item in found if item]


def _numbers(span: re.Match[str]) -> Iterator[str]:
    """ "1-3" by steps of 1, "1-9 (+4)" by 4, "1-9 [5]" five of them, the ends included."""
    first, last = (_number(span[name]) for name in ("first", "last"))
    if span["count"]:
        return map(repr, np.linspace(first, last, int(span["count"])).tolist())
    step = _number(span["step"] or "1")
    if not step:
        raise ControlError(f"{span[0]!r} has steps of 0", "It would never end", "Give another step")
    return map(repr, np.round(np.arange(first, last + step / 2, step), 8).tolist())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ControlError(f"{text!r} is no number", fix="Give numbers, as in 0.5, 0.7-1.0 (+0.1)") from None


_fraction = _number


def _whole(text: str) -> int:
    return int(_number(text))


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ControlError(f"{text!r} is neither on nor off", fix="Give True or False")
    return text.lower() in ("true", "1")


def _label(kind: type[ControlMode] | type[ResizeMode], text: str) -> str:
    try:
        return kind(text).value
    except ValueError:
        labels = ", ".join(repr(member.value) for member in kind)
        raise ControlError(f"There is no choice {text!r}", fix=f"Give one of {labels}") from None


def axes(host: WebUI) -> list[Axis]:
    """All of them, with the models that the host has."""

    def model(text: str) -> str:
        return host.catalog.name(host.catalog.find(text))

    def models() -> list[str]:
        return [control_types.NONE, *host.catalog.names()]

    def modes(kind: type[ControlMode] | type[ResizeMode]) -> Choices:
        return lambda: [member.value for member in kind]

    return [
        Axis("Enabled", "control_net_enabled", _switch, lambda: ["True", "False"]),
        Axis("Model", "control_net_model", model, models, cost=0.9),
        Axis("Weight", "control_net_weight", _fraction),
        Axis("Guidance Start", "control_net_guidance_start", _fraction),
        Axis("Guidance End", "control_net_guidance_end", _fraction),
        Axis("Control Mode", "control_net_control_mode", partial(_label, ControlMode), modes(ControlMode)),
        Axis("Resize Mode", "control_net_resize_mode", partial(_label, ResizeMode), modes(ResizeMode)),
        Axis("Preprocessor", "control_net_module", _preprocessor, _preprocessors),
        Axis("Pre Resolution", "control_net_pres", _whole),
        Axis("Pre Threshold A", "control_net_pthr_a", _fraction),
        Axis("Pre Threshold B", "control_net_pthr_b", _fraction),
    ]


def _preprocessor(text: str) -> str:
    return preprocess.find(text).name


def _preprocessors() -> list[str]:
    return [preprocessor.name for preprocessor in preprocess.everything()]


def register(scripts_data: Iterable[Any], host: WebUI) -> None:
    """Add the axes to the host's grid, where it has one. scripts_data: the host's loaded scripts."""
    for grid in {id(m): m for data in scripts_data if (m := getattr(data, "module", None))}.values():
        if grid.__name__ in ("xyz_grid.py", "scripts.xyz_grid"):
            known = {option.label for option in grid.axis_options}
            options = (_option(grid.AxisOption, axis) for axis in axes(host))
            grid.axis_options.extend(option for option in options if option.label not in known)


def _option(kind: Callable[..., Any], axis: Axis) -> Any:
    def apply(p: Any, value: object, _values: object) -> None:
        remote.set_by_axis(p, axis.attribute, value)

    return kind(
        f"[ControlNet] {axis.label}",
        axis.value,
        apply,
        cost=axis.cost,
        choices=axis.choices,
        prepare=axis.values,
    )
