"""What happens on the panel, as functions of values: they know no gradio and keep nothing.

Each takes the values of one unit and answers with what changes: for a field's name its new value, choices,
label, range, or whether it is shown. A field that is hidden because it does nothing goes back to its default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any, TypeAlias

import numpy as np

from controlstack import control_types, plan, preprocess
from controlstack.control_types import ControlType
from controlstack.errors import ControlError
from controlstack.faces.ui import values as page
from controlstack.faces.ui.fields import BY_NAME, HIRES, LISTED
from controlstack.faces.ui.stock import Stock
from controlstack.faces.ui.values import Values
from controlstack.family import Match
from controlstack.preprocess import Preprocessor, Slider
from controlstack.sources import Job
from controlstack.unit import ControlNetUnionControlType, InputMode, WeightType, parse

Change: TypeAlias = dict[str, Any]
"""New properties of one component: value, visible, choices, label, minimum, maximum, step."""
Changes: TypeAlias = dict[str, Change]
"""By the names of fields."""
Event: TypeAlias = Callable[[Values, Stock], Changes]

_SLIDERS = {"processor_res": "resolution", "threshold_a": "a", "threshold_b": "b"}
_COMPOSES = {WeightType.STYLE_AND_COMPOSITION.value, WeightType.STRONG_STYLE_AND_COMPOSITION.value}


def applied(values: Values, changes: Changes) -> dict[str, Any]:
    """The values after an event."""
    return {**values, **{name: change["value"] for name, change in changes.items() if "value" in change}}


def control_type(values: Values, stock: Stock) -> Changes:
    """A control type was chosen: its preprocessors and models are listed, and its pair is taken, unless a
    pair of its own is there already: gradio 4 tells of a choice also if a preset or an infotext made it."""
    kind = stock.control_type(values["control_type"])
    changes = listed(values, stock)
    stays = _belongs(values, kind)
    if not stays:
        changes["module"]["value"] = kind.default_option.label
        changes["model"]["value"] = kind.default_model
    if not stays or kind.name != control_types.ALL:
        changes["union_control_type"] = {"value": _union_type(kind.name)}
    after = applied(values, changes)
    return {**changes, **_sliders(after, fresh=not stays), **_merged(changes, model(after, stock))}


def _belongs(values: Values, kind: ControlType) -> bool:
    """Whether the unit's preprocessor and model are a control type's, and none is missing. Also nothing at
    all belongs to "All"."""
    lists_both = values["model"] in kind.models and any(
        preprocessor.label == values["module"] for preprocessor in kind.preprocessors
    )
    if kind.name == control_types.ALL:
        return lists_both
    lacks_model = values["model"] == control_types.NONE != kind.default_model
    nothing = (values["module"], values["model"]) == (BY_NAME["module"].default, control_types.NONE)
    return lists_both and not lacks_model and not nothing


def _merged(first: Changes, second: Changes) -> Changes:
    return {name: {**first.get(name, {}), **change} for name, change in second.items()}


def _union_type(control_type: str) -> str:
    try:
        return ControlNetUnionControlType(control_type).value
    except ValueError:
        return ControlNetUnionControlType.UNKNOWN.value


def preprocessor(values: Values, stock: Stock) -> Changes:
    """A preprocessor was chosen: its sliders appear under their names, at their defaults."""
    return _sliders(values, fresh=True)


def relabelled(values: Values, stock: Stock) -> Changes:
    """The preprocessor is another one, by whoever's doing: its sliders appear; numbers that suit it stay."""
    return _sliders(values, fresh=False)


def _sliders(values: Values, *, fresh: bool) -> Changes:
    chosen = _preprocessor(values)
    if chosen is None:
        return {}
    changes = {
        name: _slider(getattr(chosen, which), BY_NAME[name].label, None if fresh else values[name])
        for name, which in _SLIDERS.items()
    }
    if values["pixel_perfect"]:
        changes["processor_res"]["visible"] = False
    changes["control_mode"] = {"visible": chosen.shows_control_mode}
    if not chosen.shows_control_mode:
        changes["control_mode"]["value"] = BY_NAME["control_mode"].default
    return changes


def _slider(slider: Slider | None, label: str, keep: float | None) -> Change:
    if slider is None:
        return {"visible": False, "value": -1, "minimum": -1}
    span = {"minimum": slider.minimum, "maximum": slider.maximum, "step": slider.step}
    kept = keep is not None and slider.minimum <= keep <= slider.maximum
    return {"label": slider.label or label, "visible": True, **span} | (
        {} if kept else {"value": slider.value}
    )


def pixel_perfect(values: Values, stock: Stock) -> Changes:
    """Pixel Perfect was switched: then the resolution follows from the picture's size."""
    chosen = _preprocessor(values)
    shown = chosen is not None and chosen.resolution is not None and not values["pixel_perfect"]
    return {"processor_res": {"visible": shown}}


def model(values: Values, stock: Stock) -> Changes:
    """A model was chosen: what only some kinds of models understand is shown for those, else at rest."""
    match = _match(values["model"], stock)
    layered = match is not None and bool(match.layers)
    kind = match.family.name if match else ""
    return {
        "pulid_mode": _shown("pulid_mode", "pulid" in str(values["model"]).lower()),
        "union_control_type": _shown("union_control_type", "union" in kind),
        "combination": _shown("combination", match is not None and match.embeddings),
        "weight_type": _shown("weight_type", layered),
        **_layers({**values, **({} if layered else {"weight_type": LISTED})}, layered=layered),
    }


def weight_type(values: Values, stock: Stock) -> Changes:
    """How layers are weighed was chosen: by a name, or by the numbers in the textbox."""
    return _layers(values, layered=True)


def _layers(values: Values, *, layered: bool) -> Changes:
    listed, composes = values["weight_type"] == LISTED, values["weight_type"] in _COMPOSES
    return {
        "advanced_weighting": _shown("advanced_weighting", layered and listed),
        "composition_weight": _shown("composition_weight", layered and composes),
    }


def _shown(name: str, visible: bool) -> Change:
    return {"visible": True} if visible else {"visible": False, "value": BY_NAME[name].default}


def refreshed(values: Values, stock: Stock) -> Changes:
    """The list of models is read anew; the chosen one stays, also where it has gone: then that is said."""
    stock.refresh()
    return listed(values, stock)


def listed(values: Values, stock: Stock) -> Changes:
    """What there is to choose from, for the control type at hand and the checkpoint that is loaded now."""
    kind = stock.control_type(values["control_type"])
    labels = [preprocessor.label for preprocessor in kind.preprocessors]
    return {"model": {"choices": list(kind.models)}, "module": {"choices": labels}}


def region(values: Values, stock: Stock) -> Changes:
    """The region mask was switched."""
    return {"region": {"visible": bool(values["region_on"])}}


def independent(values: Values, stock: Stock) -> Changes:
    """In img2img, whether the unit has a picture of its own: without one there is nothing to fit."""
    own = bool(values["independent"])
    return {
        "picture": {"visible": own},
        "resize_mode": {"visible": own},
        "allow_preview": _shown("allow_preview", own),
    }


def allow_preview(values: Values, stock: Stock) -> Changes:
    """The preview was switched."""
    shown = bool(values["allow_preview"])
    return {"preview": {"visible": shown}, "preview_as_input": _shown("preview_as_input", shown)}


def hires(values: Values, stock: Stock) -> Changes:
    """Other values in the high-resolution pass were switched; they begin with those of the first."""
    changes = _hires_shown(values, stock)
    if values["hires_on"]:
        for name, first in page.IN_HIRES.items():
            if BY_NAME[name].kind != "text":
                changes[name]["value"] = values[first]
    return changes


def _hires_shown(values: Values, stock: Stock) -> Changes:
    return {name: _shown(name, bool(values["hires_on"])) for name in HIRES}


def source(mode: InputMode) -> Event:
    """A tab with one way to bring pictures was opened."""
    return lambda values, stock: {"input_mode": {"value": mode.value}}


def uploaded(values: Values, stock: Stock) -> Changes:
    """A picture was put into the unit: it is meant to be used."""
    return {"enabled": {"value": True}}


def shown(values: Values, stock: Stock) -> Changes:
    """Everything a page must show for values that came from elsewhere: a preset, a command, another unit."""
    every = (listed, relabelled, model, region, independent, allow_preview, _hires_shown)
    changes: Changes = {name: {"value": value} for name, value in values.items()}
    for event in every:
        for name, change in event(applied(values, changes), stock).items():
            changes[name] = {**changes.get(name, {}), **change}
    return changes


def mistake(values: Values, stock: Stock, place: int) -> str:
    """The sentences about a unit that cannot run as it stands, whatever its picture is; "" for none.

    place: of the unit on the page
    """
    if values["preview_as_input"]:  # a map is there: no preprocessor runs
        values = {**values, "module": BY_NAME["module"].default}
    try:
        unit = parse(page.unit({**values, "enabled": True}))
        chosen = preprocess.find(unit.module)
        if (fault := stock.fault(chosen)) is not None:
            raise fault
        base = stock.base()
        if values["enabled"] and base is not None and unit.input_mode is not InputMode.BATCH:
            unit.image, unit.mask = np.zeros((8, 8, 3), np.uint8), None
            unit.effective_region_mask = None
            plan.resolve(place, unit, Job(64, 64, base), stock.host.catalog)
        else:
            stock.match(unit.model)
    except ControlError as error:
        return sentences(error)
    return ""


def sentences(error: ControlError) -> str:
    """An error in words, without whose it is: it stands at the unit."""
    return str(error).partition(": ")[2]


def as_html(said: str) -> str:
    """What people read at the unit."""
    return f'<p role="alert">{escape(said)}</p>' if said else ""


def as_status(said: str) -> str:
    """What people read while something runs, and when it is done."""
    return f'<p role="status">{escape(said)}</p>' if said else ""


def _preprocessor(values: Values) -> Preprocessor | None:
    try:
        return preprocess.find(str(values["module"]))
    except ControlError:  # said at the unit by `mistake`
        return None


def _match(name: str, stock: Stock) -> Match | None:
    try:
        return stock.match(str(name))
    except ControlError:  # said at the unit by `mistake`
        return None


@dataclass(frozen=True)
class Reaction:
    """What the panel does when a field changes.

    on: "input" (a person changed it), "change" (anybody did), "release" or "blur"
    outputs: the fields that it may change
    check: whether the mistakes of the unit are looked for again
    """

    field: str
    on: str
    event: Event | None = None
    outputs: tuple[str, ...] = ()
    check: bool = True


_OF_PREPROCESSOR = (*_SLIDERS, "control_mode")
_OF_MODEL = (
    *("pulid_mode", "union_control_type", "combination", "weight_type"),
    *("advanced_weighting", "composition_weight"),
)
REACTIONS = (
    Reaction("control_type", "input", control_type, ("module", "model", *_OF_PREPROCESSOR, *_OF_MODEL)),
    Reaction("control_type", "change", listed, ("module", "model"), check=False),
    Reaction("module", "input", preprocessor, _OF_PREPROCESSOR),
    Reaction("module", "change", relabelled, _OF_PREPROCESSOR),
    Reaction("model", "change", model, _OF_MODEL),
    Reaction("pixel_perfect", "change", pixel_perfect, ("processor_res",), check=False),
    Reaction("region_on", "change", region, ("region",), check=False),
    Reaction("independent", "change", independent, ("picture", "resize_mode", "allow_preview"), check=False),
    Reaction("allow_preview", "change", allow_preview, ("preview", "preview_as_input"), check=False),
    Reaction("hires_on", "input", hires, HIRES),
    Reaction("hires_on", "change", _hires_shown, HIRES, check=False),
    Reaction("weight_type", "change", weight_type, ("advanced_weighting", "composition_weight")),
    Reaction("enabled", "change"),
    Reaction("preview_as_input", "change"),
    Reaction("guidance_start", "release"),
    Reaction("guidance_end", "release"),
    Reaction("weight_curve", "change"),
    Reaction("advanced_weighting", "change"),
    Reaction("batch_weights", "change"),
    Reaction("hires_start", "release"),
    Reaction("hires_end", "release"),
    Reaction("hires_curve", "change"),
    Reaction("hires_layers", "change"),
)
"""Everything the panel does by itself when a field changes."""
