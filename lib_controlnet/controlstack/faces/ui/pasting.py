"""What pasting a picture's parameters sets on the panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from controlstack import control_types
from controlstack.errors import ControlError
from controlstack.faces.ui import events, stack, values
from controlstack.faces.ui.fields import PICTURES
from controlstack.unit import INFOTEXT, parse

if TYPE_CHECKING:
    from controlstack.faces.ui.layout import PanelView
    from controlstack.faces.ui.stock import Stock

_KEPT = {
    *("independent", "allow_preview", "preview_as_input", "region_on", "input_mode"),
    *("batch_dir", "batch_mask_dir", "output_dir", "loopback", "low_vram"),
}
"""What parameters do not tell."""
_TAKES: Mapping[str, events.Event] = {
    **dict.fromkeys(("module", "model"), events.listed),
    **dict.fromkeys(("processor_res", "threshold_a", "threshold_b"), events.relabelled),
}
"""What tells which values a field takes. Gradio 4 forgets a value that is not among them: they come along."""
Paste = Callable[[Mapping[str, Any]], Any]


def fields(view: PanelView, name: str, stock: Stock) -> list[tuple[Any, Paste]]:
    """For the host's paste: each component with what it gets from the parameters, None for nothing.

    `infotext.paste` has put "ControlNet 0 weight" and its like among the parameters before. Where they tell
    of any unit, those that they do not tell of are switched off, else the picture would not come back.
    """
    pasted_into = [
        (component, _paste(f"{name} {unit.place}", name, field, stock))
        for unit in view.units
        for field, component in unit.fields.items()
        if field in _TOLD
    ]
    return [*pasted_into, (view.parts["_units"], _told(name, len(view.units)))]


_TOLD = frozenset(values.of(parse({}))) - _KEPT - PICTURES


def _told(name: str, count: int) -> Paste:
    """Which units are on after pasting, for the page's script."""

    def paste(params: Mapping[str, Any]) -> Any:
        units = [f"{name} {place}" for place in range(count)]
        told = [pasted(unit, params) if f"{unit} enabled" in params else _OFF for unit in units]
        return update({"value": stack.told(told)}) if _tells(name, params) else None

    return paste


_OFF = {"enabled": False, "control_type": control_types.ALL}


def _tells(name: str, params: Mapping[str, Any]) -> bool:
    """Whether parameters tell of any unit."""
    return any(key.startswith(f"{name} ") and key.endswith(" enabled") for key in params)


def _paste(unit: str, name: str, field: str, stock: Stock) -> Paste:
    def paste(params: Mapping[str, Any]) -> Any:
        if f"{unit} enabled" not in params:
            return update({"value": False}) if _tells(name, params) and field == "enabled" else None
        told = pasted(unit, params)
        taken = _TAKES[field](told, stock).get(field, {}) if field in _TAKES else {}
        return update({"value": told[field], **taken})

    return paste


def pasted(unit: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The page's values for one of the parameters' units, "ControlNet 0"; those at rest if unreadable."""
    told = {field: params.get(f"{unit} {field}") for field in ("enabled", *INFOTEXT)}
    try:
        return values.of(parse(told))
    except ControlError:  # told in the log where the parameters were read
        return values.of(parse({}))


def update(change: Mapping[str, Any]) -> Any:
    """gradio's, when a page is there."""
    from controlstack.faces.ui import compat

    return compat.update(change)
