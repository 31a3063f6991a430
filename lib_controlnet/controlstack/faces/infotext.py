"""Units in a picture's parameters, read back: the incumbent's format, Forge's, and ours.

`unit.infotext` writes it: "Module: canny, Model: name [hash], Weight: 1.0, ...".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl

from controlstack.curve import Curve
from controlstack.errors import ControlError
from controlstack.hosts.webui import WebUI
from controlstack.log import log
from controlstack.unit import INFOTEXT, ControlNetUnit, parse

_FIELD = re.compile(r'\s*(?P<key>[^:,"]+):\s*(?P<value>"(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
_NAMES = {label: name for name, label in INFOTEXT.items()}


def unit(text: str) -> ControlNetUnit:
    """The unit that a text of this format tells of, enabled. Fields that no unit has are left out.

    Raises ControlError as `parse` does.
    """
    said = {key: value for key, value in fields(text).items() if key in INFOTEXT}
    return parse({**said, "enabled": True})


def fields(text: str) -> dict[str, Any]:
    """What a text of this format says, by the unit's names, and mask_hash and region_mask_hash."""
    return {
        _name(found["key"]): _value(found["key"], found["value"].strip()) for found in _FIELD.finditer(text)
    }


def _name(key: str) -> str:
    return _NAMES.get(key.strip(), key.strip().lower().replace(" ", "_"))


def _value(key: str, text: str) -> Any:
    if _name(key) in {"advanced_weighting", "batch_weights"} and not text[:1].isalpha():
        return text.split()
    if _name(key) == "hires":
        return dict(parse_qsl(text))
    return json.loads(text) if text.startswith('"') else text


def units(params: Mapping[str, Any], name: str = "ControlNet") -> dict[int, ControlNetUnit]:
    """The units among a picture's parameters, by their places. What cannot be read is said and left out."""
    found = {}
    for key, text in params.items():
        if (place := re.fullmatch(rf"{name} (\d+)", key)) and isinstance(text, str):
            try:
                found[int(place[1])] = unit(text)
            except (ControlError, ValueError) as error:
                log.warning("The parameters of %s cannot be pasted: %s", key, error)
    return found


def paste(params: dict[str, Any], host: WebUI) -> None:
    """`pasted`, unless the setting says no."""
    if host.option("control_net_sync_field_args", default=True):
        pasted(params, host.name)


def pasted(params: dict[str, Any], name: str = "ControlNet") -> None:
    """Add to a picture's parameters what the page pastes into its fields: "ControlNet 0 weight" and so on.

    Enumerations and curves come as their texts. A mask is not in the parameters; its hash comes as
    "ControlNet 0 mask_hash", so that the page can say whether the one at hand is the same.
    """
    for place, found in units(params, name).items():
        told = {field: getattr(found, field) for field in ("enabled", *INFOTEXT)}
        told |= {key: v for key, v in fields(params[f"{name} {place}"]).items() if key.endswith("_hash")}
        params.update({f"{name} {place} {key}": _plain(v) for key, v in told.items()})


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, (Enum, Curve)) else value
