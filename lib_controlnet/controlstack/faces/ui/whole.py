"""The events of a panel as a whole: commands on the stack, the overview, presets, and what will be sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gradio as gr

from controlstack.errors import ControlError
from controlstack.faces.ui import compat, events, pictures, presets, sent, stack, values
from controlstack.faces.ui.events import Changes
from controlstack.faces.ui.fields import FIELDS, NAMES, PICTURES
from controlstack.faces.ui.layout import PanelView, UnitView
from controlstack.faces.ui.presets import Presets
from controlstack.faces.ui.stack import Stack
from controlstack.faces.ui.stock import Stock
from controlstack.log import log
from controlstack.unit import parse

_COUNT = len(NAMES)
_STARTS_FROM = {"img2img": {"independent": False}, "txt2img": {"independent": True}}


class Whole:
    """Answers the events of a panel. Every answer that changes units has an update for every component."""

    def __init__(self, view: PanelView, stock: Stock) -> None:
        self.view, self.stock = view, stock
        self.at_rest = {field.name: field.default for field in FIELDS} | _STARTS_FROM[view.tab]
        self.components = [component for unit in view.units for component in unit.values()]
        folder = stock.host.data_path()
        self.presets = Presets(folder / presets.FOLDER) if folder else None

    def wire(self) -> None:
        """Connect everything."""
        parts, state = self.view.parts, self.view.parts["shown"]
        inputs = [state, *self.components]
        outputs = [
            *(parts["_overview"], parts["_mistake"], state, parts["_tabs_style"]),
            *self._tabs_of_units(),
            parts["_units"],
            *self.components,
        ]
        compat.on(parts["_command_run"].click, self._command, [parts["_command"], *inputs], outputs)
        if "_add_unit" in parts:
            add = self._answer(lambda old: stack.after(old, "add", 0, self.at_rest))
            compat.on(parts["_add_unit"].click, add, inputs, outputs)
        turns = self._answer(lambda old: stack.after(old, "turns", 0, self.at_rest))
        compat.on(parts["_turns"].click, turns, inputs, outputs)
        compat.on(parts["_overview_refresh"].click, self._overview, inputs, [parts["_overview"]])
        compat.on(
            parts["_units"].change,
            lambda told, shown: self._tabs(max(int(shown), stack.reach(told))),
            [parts["_units"], state],
            [state, parts["_tabs_style"], *self._tabs_of_units()],
        )  # a unit without a tab that is switched on, as by pasted parameters, gets one
        self._wire_presets(inputs, outputs)
        for unit in self.view.units:
            self._wire_sent(unit)

    def _command(self, text: str, *given: Any) -> list[Any]:
        return self._answer(lambda old: stack.after(old, *stack.read(text), self.at_rest))(*given)

    def _overview(self, *given: Any) -> str:
        return stack.rows(self._stack(given))

    def _stack(self, given: Sequence[Any]) -> Stack:
        shown, flat = given[0], given[1:]
        units = [
            dict(zip(NAMES, flat[start : start + _COUNT], strict=True))
            for start in range(0, len(flat), _COUNT)
        ]
        return Stack(tuple(units), int(shown))

    def _answer(self, change: Callable[[Stack], Stack]) -> Callable[..., list[Any]]:
        """A function of the page's values whose answer is the stack after a change."""

        def answer(*given: Any) -> list[Any]:
            old = self._stack(given)
            try:
                new, said = change(old), ""
            except ControlError as error:
                new, said = old, events.as_html(events.sentences(error))
            except Exception as error:  # noqa: BLE001  the panel goes on
                log.exception("The panel could not change the stack")
                new, said = old, events.as_html(f"The panel could not do it: {error}. The log says more.")
            told = stack.told(new.units)
            return [stack.rows(new), said, *self._tabs(new.shown), told, *self._updates(old, new)]

        return answer

    def _tabs_of_units(self) -> list[Any]:
        """The tabs that an answer can show and hide."""
        return self.view.tabs if compat.CAN_HIDE_TABS else []

    def _tabs(self, shown: int) -> list[Any]:
        style, tabs = compat.tabs_shown(f"{self.view.prefix}_tabs", shown, len(self.view.tabs))
        return [shown, style, *tabs]

    def _updates(self, old: Stack, new: Stack) -> Iterable[Any]:
        for before, after in zip(old.units, new.units, strict=True):
            same = {name for name in NAMES if _same(name, before[name], after[name])}
            changes = self._changes(after) if len(same) < _COUNT else {}
            for name in same & changes.keys():
                if name in PICTURES or changes[name].get("value") == after[name]:
                    changes[name].pop("value", None)  # what does not change is not sent, and wakes no event
            yield from (compat.update(changes.get(name, {})) for name in NAMES)

    def _changes(self, unit: Mapping[str, Any]) -> Changes:
        changes = events.shown(unit, self.stock)
        for name in PICTURES & changes.keys():
            changes[name]["value"] = _given_back(name, unit[name])
        if self.view.tab == "txt2img":  # the switch has no meaning there, and is not shown
            changes["independent"]["visible"] = False
        return changes

    def _wire_presets(self, inputs: list[Any], outputs: list[Any]) -> None:
        parts = self.view.parts
        chosen, share, said = parts["_preset_dropdown"], parts["_preset_share"], parts["_mistake"]

        def keep(name: str, *given: Any) -> list[Any]:
            def save(kept: Presets) -> tuple[str | None, str]:
                text = self._text(given)
                return kept.save(name, text), text

            return self._kept(save)

        def forget(name: str | None) -> list[Any]:
            def delete(kept: Presets) -> tuple[str | None, str]:
                kept.delete(name or "")
                return None, ""

            return self._kept(delete)

        compat.on(parts["_preset_save"].click, keep, [parts["_preset_name"], *inputs], [chosen, share, said])
        compat.on(parts["_preset_delete"].click, forget, [chosen], [chosen, share, said])
        compat.on(
            parts["_preset_load"].click,
            lambda name, *given: self._answer(lambda old: self._loaded(old, self._read(name)))(*given),
            [chosen, *inputs],
            outputs,
        )
        compat.on(
            parts["_preset_import"].click,
            lambda text, *given: self._answer(lambda old: self._loaded(old, text))(*given),
            [share, *inputs],
            outputs,
        )
        for listener in compat.listeners(chosen, "focus"):
            compat.on(listener, lambda: gr.update(choices=self._names()), [], [chosen])

    def _names(self) -> list[str]:
        return self.presets.names() if self.presets else []

    def _read(self, name: str | None) -> str:
        return self._folder().load(name or "")

    def _folder(self) -> Presets:
        if self.presets is None:
            raise ControlError("This host keeps no settings", "", "Copy the JSON and keep it yourself")
        return self.presets

    def _kept(self, change: Callable[[Presets], tuple[str | None, str]]) -> list[Any]:
        try:
            name, text = change(self._folder())
        except (ControlError, OSError) as error:
            told = events.sentences(error) if isinstance(error, ControlError) else str(error)
            return [gr.update(), gr.update(), events.as_html(told)]
        return [gr.update(choices=self._names(), value=name), text, ""]

    def _text(self, given: Sequence[Any]) -> str:
        old = self._stack(given)
        return presets.write([parse(values.unit(unit)) for unit in old.units[: old.shown]])

    def _loaded(self, old: Stack, text: str) -> Stack:
        """A preset's units over the pictures that are there; units that it does not tell of are off."""
        units = presets.read(text)
        if len(units) > len(old.units):
            raise ControlError(
                f"The preset has {len(units)} units, and here are {len(old.units)}",
                "",
                "Raise the number of units in the settings and reload the page",
            )
        kept = [
            {**before, **values.of(unit), **{name: before[name] for name in _KEPT}}
            for before, unit in zip(old.units, units, strict=False)
        ]
        off = [{**before, "enabled": False} for before in old.units[len(units) :]]
        return Stack((*kept, *off), len(units))

    def _wire_sent(self, view: UnitView) -> None:
        title, tab = self.stock.host.name, self.view.tab

        def show(pictures_too: bool, *given: Any) -> list[str]:
            try:
                unit = parse(values.unit({**dict(zip(NAMES, given, strict=True)), "enabled": True}))
                told = sent.as_api(unit, pictures=True)
            except ControlError as error:
                return ["", "", "", events.as_html(events.sentences(error))]
            told = told if pictures_too else sent.shortened(told)
            told_so = events.as_html(sent.note(unit))
            return [
                sent.as_json(told),
                sent.as_curl(told, title, tab),
                sent.as_python(told, title, tab),
                told_so,
            ]

        parts = view.parts
        outputs = [parts["_sent_json"], parts["_sent_curl"], parts["_sent_python"], parts["_mistake"]]
        compat.on(parts["_sent_show"].click, show, [parts["_sent_pictures"], *view.values()], outputs)


_KEPT = (*PICTURES, "independent", "allow_preview", "input_mode", "region_on")
"""What a preset leaves as it is."""


def _same(name: str, one: Any, other: Any) -> bool:
    if name in PICTURES:
        return one is other or not (_holds(name, one) or _holds(name, other))
    return bool(one == other)


def _holds(name: str, value: Any) -> bool:
    """Whether there is a picture; empty canvases come in many forms."""
    if name in {"gallery", "batch_files"}:
        return bool(value)
    return pictures.drawn(value) is not None


def _given_back(name: str, value: Any) -> Any:
    """A value that came from a component, as one that is given to it."""
    if name in {"picture", "region"}:
        found = pictures.drawn(value)
        return compat.canvas_value(found.rgb, found.mask) if found else compat.canvas_value(None)
    if name == "mask":
        return pictures.region(value)
    if name in {"gallery", "batch_files"}:
        return compat.gallery_value([str(path) for path in pictures.files(value)])
    return value
