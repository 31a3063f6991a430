"""The stack of units as a whole: what commands do to it, and how it is shown in rows. No gradio."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from PIL import Image

from controlstack import control_types, preprocess
from controlstack.errors import ControlError
from controlstack.faces.ui import pictures
from controlstack.faces.ui.values import Values
from controlstack.image import Array

COMMANDS = ("up", "down", "duplicate", "solo", "mute", "remove", "add", "turns")
_THUMBNAIL = 64
"""px"""


@dataclass(frozen=True)
class Stack:
    """Units by place; those from `shown` on have no tab and are off."""

    units: tuple[Values, ...]
    shown: int


def read(text: str) -> tuple[str, int]:
    """What the page's script asks for: ``{"do", "unit"}``. Raises ControlError."""
    try:
        given = json.loads(text)
        do, unit = given["do"], int(given.get("unit", 0))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ControlError("The command cannot be read", repr(text)[:80]) from error
    if do not in COMMANDS:
        raise ControlError(f"There is no command {do!r}", "", f"Send one of {', '.join(COMMANDS)}")
    return do, unit


def after(stack: Stack, do: str, unit: int, at_rest: Values) -> Stack:
    """The stack after a command. Raises ControlError where there is no such unit, or no room."""
    units, shown = list(stack.units), stack.shown
    if do in {"add", "duplicate"} and shown == len(units):
        raise ControlError(
            f"There is no room for another unit beside {shown}",
            "",
            "Raise the number of units in the settings and reload the page",
        )
    if do == "add":
        return Stack(stack.units, shown + 1)
    if do == "turns":
        return Stack(_in_turns(stack), shown)
    if not 0 <= unit < shown:
        raise ControlError(f"There is no unit {unit}", f"There are {shown}, counted from 0")
    if do in {"up", "down"}:
        other = unit + (1 if do == "down" else -1)
        if 0 <= other < shown:
            units[unit], units[other] = units[other], units[unit]
    elif do == "duplicate":
        units[unit + 1 : shown + 1] = [units[unit], *units[unit + 1 : shown]]
        shown += 1
    elif do == "remove":
        units[unit:shown] = [*units[unit + 1 : shown], at_rest]
        shown = max(shown - 1, 1)
    elif do == "mute":
        units[unit] = {**units[unit], "enabled": not units[unit]["enabled"]}
    else:
        units[:shown] = [{**one, "enabled": place == unit} for place, one in enumerate(units[:shown])]
    return Stack(tuple(units), shown)


def _in_turns(stack: Stack) -> tuple[Values, ...]:
    """Each picture of a batch gets one of the units that are on, in turns; asked again, all of them."""
    on = [place for place, unit in enumerate(stack.units[: stack.shown]) if unit["enabled"]]
    turns = {
        place: ", ".join("1" if nth == own else "0" for nth in range(len(on))) for own, place in enumerate(on)
    }
    if all(stack.units[place]["batch_weights"] == weights for place, weights in turns.items()):
        turns = dict.fromkeys(on, "")
    return tuple(
        {**unit, "batch_weights": turns[place]} if place in turns else unit
        for place, unit in enumerate(stack.units)
    )


def told(units: Iterable[Values]) -> str:
    """Which units are on, and their control types, as JSON for the page's script."""
    return json.dumps(
        [{"on": bool(unit["enabled"]), "type": unit["control_type"]} for unit in units], ensure_ascii=False
    )


def reach(told_so: str) -> int:
    """How many tabs the units that are on need."""
    return max((place + 1 for place, unit in enumerate(json.loads(told_so)) if unit["on"]), default=0)


def rows(stack: Stack) -> str:
    """The stack for people: a row for each unit."""
    return "".join(_row(place, unit) for place, unit in enumerate(stack.units[: stack.shown]))


_BUTTONS = {
    "up": "Move up",
    "down": "Move down",
    "duplicate": "Duplicate",
    "solo": "Only this one",
    "mute": "On or off",
    "remove": "Remove",
}


def _row(place: int, unit: Values) -> str:
    on = "on" if unit["enabled"] else "off"
    start, end = float(unit["guidance_start"] or 0), float(unit["guidance_end"] or 0)
    left, width = 100 * min(start, end), 100 * max(end - start, 0)
    model = str(unit["model"]).partition(" [")[0]
    buttons = "".join(
        f'<button type="button" class="cnet-row-{do} cnet-icon cnet-icon-{do}" data-do="{do}" '
        f'title="{title}" aria-label="{title}: unit {place}">{title}</button>'
        for do, title in _BUTTONS.items()
    )
    return (
        f'<div class="cnet-row cnet-row-{on}" data-unit="{place}">'
        f'<span class="cnet-row-number">{place}</span>'
        f"{_thumbnail(unit['picture'], 'picture')}{_thumbnail(unit['preview'], 'map')}"
        f'<span class="cnet-row-type">{escape(kind(unit))}</span>'
        f'<span class="cnet-row-model" title="{escape(model)}">{escape(model)}</span>'
        f'<span class="cnet-row-weight">{float(unit["weight"] or 0):g}</span>'
        f'<span class="cnet-row-window" title="{start:g} to {end:g}">'
        f'<span style="margin-left:{left:.4g}%;width:{width:.4g}%"></span></span>'
        f'<span class="cnet-row-buttons">{buttons}</span></div>'
    )


def kind(unit: Values) -> str:
    """The control type of a unit in a word: the one that was chosen, or its preprocessor's first; none offers
    everything."""
    if unit["control_type"] != control_types.ALL or unit["module"] == "none":
        return str(unit["control_type"])
    try:
        chosen = preprocess.find(str(unit["module"]))
    except ControlError:  # said at the unit
        return str(unit["module"])
    return next(iter(chosen.control_types), chosen.label)


def _thumbnail(value: Any, what: str) -> str:
    found = pictures.drawn(value)
    if found is None:
        return f'<span class="cnet-row-{what} cnet-row-nothing"></span>'
    return f'<img class="cnet-row-{what}" alt="{what}" src="{_jpeg(found.rgb)}">'


def _jpeg(rgb: Array) -> str:
    picture = Image.fromarray(rgb)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
