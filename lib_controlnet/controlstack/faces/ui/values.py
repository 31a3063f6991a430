"""How values travel: from the script's arguments to units, and from a unit to the page's values.

The arguments are one slot for each unit that can be stacked, and one more, followed by the values of all
components on the page, unit by unit in the order of `fields`. A slot that holds the page's own marker is
filled from the components; what anybody else put into a slot is taken as it is. The host sends all of them
with the request that says Generate, so nothing on the page can be stale. See docs/adr/0016.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controlstack import preprocess
from controlstack.errors import ControlError
from controlstack.faces.ui import pictures
from controlstack.faces.ui.fields import FIELDS, LISTED, NAMES
from controlstack.hosts.webui import MAX_UNITS
from controlstack.log import log
from controlstack.unit import ControlNetUnit, InputMode, WeightType, parse

SLOTS = MAX_UNITS + 1
"""One more than may be enabled, so that a caller who stacks too many units is told: hosts drop what has no
slot without a word."""

Values = Mapping[str, Any]
"""The values of one unit's components, by the names of their fields."""

SAME_NAME = (
    *("enabled", "low_vram", "pixel_perfect", "loopback", "module", "model", "weight", "guidance_start"),
    *("guidance_end", "processor_res", "threshold_a", "threshold_b", "control_mode", "resize_mode"),
    *("hr_option", "pulid_mode", "union_control_type", "combination", "negative_weight", "input_mode"),
    *("weight_curve", "composition_weight", "output_dir", "batch_mask_dir"),
)
"""Fields of the page that are fields of the unit."""
IN_HIRES = {
    "hires_weight": "weight",
    "hires_start": "guidance_start",
    "hires_end": "guidance_end",
    "hires_mode": "control_mode",
    "hires_curve": "weight_curve",
    "hires_negative": "negative_weight",
    "hires_layers": "advanced_weighting",
    "hires_composition": "composition_weight",
}
"""Fields of the page for the high-resolution pass, and the fields of the unit that they overlay."""


def marker() -> ControlNetUnit:
    """What stands in a slot whose unit is on the page."""
    return ControlNetUnit(is_ui=True)


def is_marker(value: object) -> bool:
    """Whether a slot is still the page's: nobody has put a unit there, or made one of the marker."""
    return (
        isinstance(value, ControlNetUnit)
        and value.is_ui
        and (value.module, value.model, value.image) == ("none", "None", None)
    )


def units(arguments: Sequence[Any]) -> list[Any]:
    """The units in the script's arguments, in any form, one for each slot.

    A marker that another extension has switched off is a unit that is off. What a caller put behind the slots
    follows, so that too many units are counted.
    """
    slots, rest = list(arguments[:SLOTS]), arguments[SLOTS:]
    for place, slot in enumerate(slots):
        if is_marker(slot):
            own = rest[place * len(NAMES) : (place + 1) * len(NAMES)]
            off = slot.enabled is not None and not slot.enabled
            slots[place] = (
                ControlNetUnit(enabled=False)
                if off or len(own) < len(NAMES)
                else unit(dict(zip(NAMES, own, strict=True)))
            )
    return slots + [value for value in rest if looks_like_a_unit(value)]


def looks_like_a_unit(value: object) -> bool:
    """Also one of another class, from before the page was reloaded; not the picture of a canvas."""
    if isinstance(value, Mapping):
        return not value or not value.keys() <= pictures.KEYS
    return hasattr(value, "module") and hasattr(value, "model")


def unit(values: Values) -> ControlNetUnit:
    """The unit that a page's values say, typed where `parse` accepts it, else as it was typed, so that who
    parses it for the job tells the mistake."""
    said = ControlNetUnit(**_said(values))
    try:
        said = parse(said)
    except ControlError as error:
        log.debug("As it is on the page, it cannot run: %s", error)
    said.is_ui = False
    return said


def _said(values: Values) -> dict[str, Any]:
    said = {name: values[name] for name in SAME_NAME}
    said["inpaint_crop_input_image"] = values["crop"]
    said["batch_weights"] = _listed(values["batch_weights"])
    said["advanced_weighting"] = _layers(values["weight_type"], values["advanced_weighting"])
    said |= _source(values)
    if values["region_on"]:
        said["effective_region_mask"] = pictures.region(values["region"])
    if values["hires_on"]:
        overlay = {field: values[name] for name, field in IN_HIRES.items()}
        overlay["advanced_weighting"] = _layers(LISTED, overlay["advanced_weighting"])
        said["hires"] = {key: one for key, one in overlay.items() if one not in ("", None, said.get(key))}
    return said


def _source(values: Values) -> dict[str, Any]:
    """Which pictures the unit looks at."""
    mode = values["input_mode"]
    if mode == InputMode.BATCH:
        roots = upload_folders()
        files = pictures.files(values["batch_files"])
        uploaded = [str(path) for path in files if pictures.within(path, roots)]
        return {"batch_images": values["batch_dir"].strip() or uploaded or None}
    if mode == InputMode.MERGE:
        return {"image": [{"image": one} for one in _gallery(values["gallery"])] or None}
    if values["preview_as_input"] and values["preview"] is not None:
        found = pictures.drawn(values["preview"])
        return {"module": "none", "image": found.rgb if found else None}
    found = pictures.drawn(values["picture"]) if values["independent"] else None
    if found is None:
        return {}
    apart = pictures.region(values["mask"]) if found.mask is None else found.mask
    return {"image": found.rgb, "mask": apart}


def _gallery(value: object) -> list[Any]:
    try:
        return pictures.opened(value, upload_folders())
    except ControlError as error:
        log.warning("%s", error)
        return []


def upload_folders() -> list[Path]:
    """Where gradio keeps what people upload, in all versions."""
    named = os.environ.get("GRADIO_TEMP_DIR")
    return [*([Path(named)] if named else []), Path(tempfile.gettempdir()) / "gradio"]


def _layers(kind: str, text: str) -> object:
    """Weights of layers: by their name, or from a textbox, which may hold a name, too."""
    return kind if kind != LISTED else text if text.strip()[:1].isalpha() else _listed(text)


def _listed(text: str) -> str | None:
    """What a person lists, with or without brackets, as JSON."""
    bare = text.strip().strip("[]").strip()
    return f"[{', '.join(bare.replace(',', ' ').split())}]" if bare else None


def of(said: ControlNetUnit) -> dict[str, Any]:
    """What the page shows for a parsed unit, but for its pictures: the inverse of `unit`."""
    shown: dict[str, Any] = {field.name: field.default for field in FIELDS}
    shown |= {name: _plain(getattr(said, name)) for name in SAME_NAME}
    shown["module"] = _label(said.module)
    shown["crop"] = said.inpaint_crop_input_image
    shown["batch_weights"] = _text(said.batch_weights)
    named = isinstance(said.advanced_weighting, WeightType)
    shown["weight_type"] = said.advanced_weighting.value if named else LISTED  # type: ignore[union-attr]
    shown["advanced_weighting"] = "" if named else _text(said.advanced_weighting)
    if isinstance(said.batch_images, str):
        shown["batch_dir"] = said.batch_images
    shown["hires_on"] = bool(said.hires)
    overlay = said.hires or {}
    for name, field in IN_HIRES.items():
        if field in ("weight_curve", "advanced_weighting"):
            shown[name] = _text(overlay.get(field))
        else:
            shown[name] = _plain(overlay.get(field, getattr(said, field)))
    return shown


def _label(module: str) -> str:
    """The label of a preprocessor, by which the page lists it; one that is not here keeps its name."""
    try:
        return preprocess.find(module).label
    except ControlError:
        return module


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, (bool, int, float)) else str(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def write_back(p: Any, title: str, resolved: Sequence[Any]) -> None:
    """Put the units into their slots among a job's arguments, where other scripts and nested jobs look."""
    script = next((s for s in runner_scripts(p) if str(s.title()).lower() == title.lower()), None)
    if script is None or script.args_from is None:
        return
    given = p.script_args
    slots = type(given)(resolved[: min(SLOTS, script.args_to - script.args_from)])
    if any(is_marker(value) for value in given[script.args_from : script.args_from + len(slots)]):
        p.script_args = given[: script.args_from] + slots + given[script.args_from + len(slots) :]


def runner_scripts(p: Any) -> Sequence[Any]:
    """The always-on scripts of a job, none where it runs without."""
    return getattr(getattr(p, "scripts", None), "alwayson_scripts", None) or ()
