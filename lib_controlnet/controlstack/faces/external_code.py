"""What other extensions import as `external_code`: the incumbent's functions, with its signatures.

Every import path leads to this one module, so that a unit is of the same class for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controlstack import geometry, hosts, image, preprocess
from controlstack.faces import api
from controlstack.faces.ui import values
from controlstack.image import Array
from controlstack.log import log
from controlstack.unit import (
    ControlMode,
    ControlNetUnionControlType,
    ControlNetUnit,
    HiResFixOption,
    InputMode,
    PuLIDMode,
    ResizeMode,
    parse,
)

__all__ = [
    "ControlMode",
    "ControlNetUnionControlType",
    "ControlNetUnit",
    "HiResFixOption",
    "InputMode",
    "PuLIDMode",
    "ResizeMode",
    "UiControlNetUnit",
    "control_mode_from_value",
    "find_cn_script",
    "get_all_units",
    "get_all_units_from",
    "get_all_units_in_processing",
    "get_api_version",
    "get_max_models_num",
    "get_models",
    "get_modules",
    "get_modules_detail",
    "get_single_unit_from",
    "is_cn_script",
    "pixel_perfect_resolution",
    "resize_mode_aliases",
    "resize_mode_from_value",
    "to_base64_nparray",
    "to_processing_unit",
    "update_cn_script",
    "update_cn_script_in_place",
    "update_cn_script_in_processing",
    "visualize_inpaint_mask",
]

UiControlNetUnit = ControlNetUnit
"""Forge's other name of it."""
resize_mode_aliases = {old: mode.value for mode in ResizeMode for old in mode.old_labels}


def get_api_version() -> int:
    """The version that `/controlnet/version` answers, too."""
    return api.API_VERSION


def get_models(update: bool = False) -> list[str]:
    """The control models, "stem [hash]". `update` looks at the folders again first."""
    catalog = hosts.current().catalog
    if update:
        catalog.refresh()
    return catalog.names()


def get_modules(alias_names: bool = False) -> list[str]:
    """The preprocessors' names, or their labels."""
    return [found.label if alias_names else found.name for found in preprocess.everything()]


def get_modules_detail(alias_names: bool = False) -> dict[str, Any]:
    """Each preprocessor's sliders, as `/controlnet/module_list` tells them."""
    detail: dict[str, Any] = api.module_list(alias_names, host=hosts.current())["module_detail"]
    return detail


def get_max_models_num() -> int:
    """How many units the page shows. A job may have more."""
    return int(hosts.current().option("control_net_unit_count", 3))


def resize_mode_from_value(value: str | int | ResizeMode) -> ResizeMode:
    """From a label of any version, or a number; raises ValueError for anything else."""
    return ResizeMode(value)


def control_mode_from_value(value: str | int | ControlMode) -> ControlMode:
    """From a label of any version, or a number; raises ValueError for anything else."""
    return ControlMode(value)


def pixel_perfect_resolution(
    image: Array,
    target_H: int,  # noqa: N803  their names
    target_W: int,  # noqa: N803
    resize_mode: ResizeMode,
) -> int:
    """The preprocessor resolution, px of the short side, whose map of an "H W C" fits the target unscaled."""
    height, width = image.shape[:2]
    return geometry.pixel_perfect_resolution(height, width, target_H, target_W, ResizeMode(resize_mode))


def to_base64_nparray(encoding: str) -> Array:
    """The picture in base64 or a data URI, uint8 "H W C". Raises ControlError."""
    return image.decode(encoding)


def visualize_inpaint_mask(img: Array) -> Array:
    """A map "H W C" as people get to see it: a mask in its fourth channel becomes transparency."""
    return image.shown(img) if img.ndim == 3 and img.shape[2] == 4 else img


def to_processing_unit(unit: Mapping[str, object] | ControlNetUnit) -> ControlNetUnit:
    """The unit of a dict; a unit is returned as it is, so that changing it changes the job's."""
    return unit if isinstance(unit, ControlNetUnit) else parse(unit)


def is_cn_script(script: Any) -> bool:
    """Whether a script of the host is ControlNet."""
    return str(script.title()).lower() == "controlnet"


def find_cn_script(script_runner: Any) -> Any:
    """The ControlNet among a runner's scripts, or None."""
    scripts = () if script_runner is None else script_runner.alwayson_scripts
    return next((script for script in scripts if is_cn_script(script)), None)


def get_all_units_in_processing(p: Any) -> list[ControlNetUnit]:
    """The units of a job, the disabled ones too. Those of the page are put among its arguments first, so that
    changing one changes the job's."""
    script = find_cn_script(p.scripts)
    if script is not None:
        values.write_back(p, script.title(), values.units(p.script_args[script.args_from : script.args_to]))
    return get_all_units(p.scripts, p.script_args)


def get_all_units(script_runner: Any, script_args: Sequence[Any]) -> list[ControlNetUnit]:
    """The units among a job's script arguments; none where the runner has no ControlNet."""
    script = find_cn_script(script_runner)
    return get_all_units_from(values.units(script_args[script.args_from : script.args_to])) if script else []


def get_all_units_from(script_args: Sequence[Any]) -> list[ControlNetUnit]:
    """The units among arguments of any kind. Raises ControlError for a dict that is none."""
    return [to_processing_unit(arg) for arg in script_args if values.looks_like_a_unit(arg)]


def get_single_unit_from(script_args: Sequence[Any], index: int = 0) -> ControlNetUnit | None:
    """The unit at that place among the units in arguments of any kind."""
    found = [arg for arg in script_args if values.looks_like_a_unit(arg)]
    return to_processing_unit(found[index]) if -len(found) <= index < len(found) else None


def update_cn_script_in_processing(p: Any, cn_units: Sequence[Any], **_kwargs: Any) -> None:
    """Make these the units of a job."""
    p.script_args = update_cn_script(p.scripts, p.script_args_value, cn_units)


def update_cn_script(script_runner: Any, script_args: Any, cn_units: Sequence[Any]) -> Any:
    """A job's script arguments, list or tuple, with these units; the given ones are not changed.

    The script has a slot for every unit that can be stacked and one more, so places of other scripts never
    move. Disabled units fill the rest; when there are too many units, disabled ones make room.
    """
    script = find_cn_script(script_runner)
    if script is None or len(script_args) < script.args_from:
        log.warning("These %d units have no effect: the job has no place for ControlNet", len(cn_units))
        return script_args
    units, slots = list(cn_units), min(script.args_to - script.args_from, values.SLOTS)
    if len(units) > slots:
        units = [unit for unit in units if _asks_for_something(unit)][:slots]
    units += [ControlNetUnit(enabled=False) for _ in range(slots - len(units))]
    kind = type(script_args)
    return script_args[: script.args_from] + kind(units) + script_args[script.args_from + slots :]


def _asks_for_something(unit: object) -> bool:
    get = unit.get if isinstance(unit, Mapping) else lambda name: getattr(unit, name, None)
    return bool(parse({name: get(name) for name in ("enabled", "module", "model")}).enabled)


def update_cn_script_in_place(
    script_runner: Any, script_args: list[Any], cn_units: Sequence[Any], **_kwargs: Any
) -> None:
    """The same, in the given list."""
    script_args[:] = update_cn_script(script_runner, script_args, cn_units)
