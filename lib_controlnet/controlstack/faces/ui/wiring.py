"""What the panel does: its components' events, answered by the functions of `events`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controlstack.faces.ui import compat, drawing, events, tools, weight_plot
from controlstack.faces.ui.events import Changes, Reaction
from controlstack.faces.ui.fields import FIELDS, PLAIN
from controlstack.faces.ui.layout import PanelView, UnitView
from controlstack.faces.ui.stock import Stock
from controlstack.faces.ui.whole import Whole
from controlstack.log import log
from controlstack.unit import InputMode

DEFAULTS = {field.name: field.default for field in FIELDS}


def wire(view: PanelView, stock: Stock) -> None:
    """Connect everything on a panel."""
    for unit in view.units:
        _wire_unit(unit, stock)
        tools.wire(unit, stock)
    if compat.DRAWS_APART:
        drawing.wire(view)
    _follow(view, stock)
    Whole(view, stock).wire()


_LISTED = ("module", "model")


def _follow(view: PanelView, stock: Stock) -> None:
    """Have all lists follow the loaded checkpoint, and tell what does not fit it.

    Hosts tell their extensions of a new checkpoint, and not their page: its script asks at every hint of one
    (`javascript/checkpoint.js`). Nothing is sent to a page that shows what there is.
    """
    known = view.parts["offered"]
    reaction = Reaction("model", "follow", events.listed, _LISTED)
    outputs: list[Any] = []
    for unit in view.units:
        outputs += [*(unit.fields[name] for name in _LISTED), unit.parts["_mistake"]]

    def follow(shown: str, *given: Any) -> list[Any]:
        now = stock.sign()
        if now == shown:
            return [shown, *(compat.update({}) for _ in outputs)]
        updates: list[Any] = []
        for nth, unit in enumerate(view.units):
            own = given[nth * len(PLAIN) : (nth + 1) * len(PLAIN)]
            values = DEFAULTS | dict(zip(PLAIN, own, strict=True))
            changes, said = answered(values, stock, reaction, unit.place)
            updates += [*(compat.update(changes.get(name, {})) for name in _LISTED), events.as_html(said)]
        return [now, *updates]

    inputs = [unit.fields[name] for unit in view.units for name in PLAIN]
    compat.on(view.parts["_follow"].click, follow, [known, *inputs], [known, *outputs])


def _wire_unit(view: UnitView, stock: Stock) -> None:
    for reaction in events.REACTIONS:
        for listener in compat.listeners(view.fields[reaction.field], reaction.on):
            _react(listener, view, stock, reaction)
    for field, kind in _PLOTTED:
        for listener in compat.listeners(view.fields[field], kind):
            _plot(listener, view, stock)
    refresh = Reaction("model", "click", events.refreshed, _LISTED)
    _react(view.parts["_controlnet_refresh_models"].click, view, stock, refresh)
    for mode, opened in view.sources.items():
        chosen = Reaction(
            "input_mode", "select", events.source(InputMode(mode)), ("input_mode",), check=False
        )
        _react(opened.select, view, stock, chosen)
    put_in = Reaction("enabled", "upload", events.uploaded, ("enabled",), check=False)
    for name in ("picture", "gallery", "batch_files"):
        for listener in compat.listeners(view.fields[name], "upload"):
            _react(listener, view, stock, put_in)


_PLOTTED = (
    *(("model", "change"), ("weight_type", "change"), ("advanced_weighting", "change")),
    *(("composition_weight", "release"), ("weight", "release")),
)
"""What the plot of layers' weights follows."""


def _plot(listener: Any, view: UnitView, stock: Stock) -> None:
    def plot(*given: Any) -> str:
        return weight_plot.svg(DEFAULTS | dict(zip(PLAIN, given, strict=True)), stock)

    compat.on(listener, plot, [view.fields[name] for name in PLAIN], [view.parts["_weight_plot"]])


def _react(listener: Any, view: UnitView, stock: Stock, reaction: Reaction) -> None:
    """Answer an event with what an event function says, and with the unit's mistakes."""
    outputs = [view.fields[name] for name in reaction.outputs]
    if reaction.check:
        outputs.append(view.parts["_mistake"])

    def answer(*given: Any) -> Any:
        values = DEFAULTS | dict(zip(PLAIN, given, strict=True))
        changes, said = answered(values, stock, reaction, view.place)
        updates = [compat.update(changes.get(name, {})) for name in reaction.outputs]
        return _single([*updates, events.as_html(said)] if reaction.check else updates)

    compat.on(listener, answer, [view.fields[name] for name in PLAIN], outputs)


def answered(values: Mapping[str, Any], stock: Stock, reaction: Reaction, place: int) -> tuple[Changes, str]:
    """What an event changes, and the unit's mistake after it. A failure of ours is said there, too: the panel
    goes on."""
    try:
        changes = reaction.event(values, stock) if reaction.event else {}
        after = events.applied(values, changes)
        return changes, events.mistake(after, stock, place) if reaction.check else ""
    except Exception as error:  # noqa: BLE001  one event must not take the page along
        log.exception("The panel could not answer a change of %s", reaction.field)
        return {}, f"The panel could not answer: {error}. The log says more."


def _single(updates: Sequence[Any]) -> Any:
    """gradio wants one answer bare."""
    return updates[0] if len(updates) == 1 else list(updates)
