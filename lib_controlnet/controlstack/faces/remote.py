"""What another script says about units by setting `p.control_net_*` on the job."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from controlstack.faces.ui import values
from controlstack.hosts.webui import WebUI
from controlstack.unit import ControlNetUnit

FIELDS = {
    "control_net_enabled": "enabled",
    "control_net_module": "module",
    "control_net_model": "model",
    "control_net_weight": "weight",
    "control_net_image": "image",
    "control_net_resize_mode": "resize_mode",
    "control_net_lowvram": "low_vram",
    "control_net_pres": "processor_res",
    "control_net_pthr_a": "threshold_a",
    "control_net_pthr_b": "threshold_b",
    "control_net_guidance_start": "guidance_start",
    "control_net_guidance_end": "guidance_end",
    "control_net_guidance_strength": "guidance_end",
    "control_net_control_mode": "control_mode",
    "control_net_pixel_perfect": "pixel_perfect",
}
"""From an attribute of the job to the unit's field; of two for a field the later counts."""
_OLD_IMAGE = "control_net_input_image"
"""The picture for units that have none."""
_BY_AXIS = "controlstack_axes"
_ALIASES = {"low_vram": "lowvram", "guidance_end": "guidance"}


def set_by_axis(p: Any, attribute: str, value: object) -> None:
    """Set what an axis of the X/Y/Z grid says: it holds for this job in any case."""
    setattr(p, attribute, value)
    setattr(p, _BY_AXIS, getattr(p, _BY_AXIS, frozenset()) | {attribute})


def heard(p: Any, arguments: Sequence[Any], host: WebUI) -> Sequence[Any]:
    """The job's units from the script's arguments, with what `p` says in their place, as the setting allows.

    The page's units are put back among the job's arguments, where other scripts and nested jobs find them.
    """
    units = values.units(arguments)
    values.write_back(p, host.name, units)
    return overlay(p, units, allowed=host.option("control_net_allow_script_control", default=False))


def overlay(p: Any, units: Sequence[Any], *, allowed: bool) -> Sequence[Any]:
    """The job's units, in any form, with what `p` says in their place; the given ones are not changed.

    An attribute holds one value, or a list with one per unit, None for "as it is". One value counts for every
    unit that is on, `control_net_enabled` for the first unit only. allowed: whether scripts may do this; what
    an axis has set counts in any case.
    """
    names = (*FIELDS, _OLD_IMAGE)
    heard = names if allowed else tuple(name for name in names if name in getattr(p, _BY_AXIS, ()))
    said = {name: value for name in heard if (value := getattr(p, name, None)) is not None}
    return [_overlaid(value, said, index) for index, value in enumerate(units)] if said else units


def _overlaid(value: Any, said: Mapping[str, object], index: int) -> Any:
    fields: dict[str, object] = {}
    for attribute, field in FIELDS.items():
        given = _at(said.get(attribute), index, first_only=field == "enabled")
        if given is not None:
            fields[field] = given
    get = value.get if isinstance(value, Mapping) else lambda name: getattr(value, name, None)
    enabled = fields.get("enabled", get("enabled"))
    if enabled is None:
        enabled = any(str(get(name) or "None").lower() != "none" for name in ("module", "model"))
    if not enabled:
        return _with(value, {"enabled": False}) if "enabled" in fields else value
    if (old := _at(said.get(_OLD_IMAGE), index)) is not None and get("image") is None:
        fields.setdefault("image", old)
    return _with(value, fields | {"enabled": enabled})


def _at(given: object, index: int, *, first_only: bool = False) -> object:
    if isinstance(given, (list, tuple)):
        return given[index] if index < len(given) else None
    return None if first_only and index else given


def _with(value: Any, fields: dict[str, object]) -> Any:
    if isinstance(value, Mapping):
        replaced = {_ALIASES.get(field) for field in fields} | (
            {"input_image"} if "image" in fields else set()
        )
        return {key: kept for key, kept in value.items() if key not in replaced} | fields
    unit = copy.copy(value) if isinstance(value, ControlNetUnit) else ControlNetUnit(**vars(value))
    for field, given in fields.items():
        setattr(unit, field, given)
    return unit
