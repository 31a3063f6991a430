"""One canvas for all units of a tab, where gradio cannot give each its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np

from controlstack.faces.ui import compat, host_page, pictures
from controlstack.faces.ui.layout import PanelView, UnitView

_BLANK = 512
"""px of a canvas where neither a picture nor the page tells a size"""


def wire(view: PanelView) -> None:
    """Connect the canvas with every unit."""
    parts = view.parts
    for unit in view.units:
        _wire_unit(view, unit)
    masks = [unit.fields["mask"] for unit in view.units]
    given = [parts["drawn_unit"], parts["_draw_editor"]]
    compat.on(parts["_draw_mask"].click, _taken(len(masks)), given, [parts["_draw"], *masks])
    regions = [unit.fields[name] for unit in view.units for name in ("region", "region_on")]
    taken = _taken(len(masks), True)
    compat.on(parts["_draw_region"].click, taken, given, [parts["_draw"], *regions])
    compat.on(parts["_draw_cancel"].click, lambda: gr.update(visible=False), [], [parts["_draw"]])


def _wire_unit(view: PanelView, unit: UnitView) -> None:
    def open_canvas(value: Any, *size: Any) -> list[Any]:
        found = pictures.drawn(value)
        width, height = (int(side) for side in size or (_BLANK, _BLANK))
        rgb = np.zeros((height, width, 3), np.uint8) if found is None else found.rgb
        return [gr.update(visible=True), compat.editor_value(rgb), unit.place]

    outputs = [view.parts[name] for name in ("_draw", "_draw_editor", "drawn_unit")]
    inputs = [unit.fields["picture"], *host_page.size(view.tab)]
    compat.on(unit.parts["_draw"].click, open_canvas, inputs, outputs)


def _taken(count: int, *switched_on: bool) -> Callable[[int, Any], list[Any]]:
    """A function that gives what was drawn to one of `count` units, and values for what follows it there."""

    def take(unit: int, value: Any) -> list[Any]:
        found = pictures.drawn(value)
        mask = None if found is None or found.mask is None else np.repeat(found.mask[..., None], 3, 2)
        given = [mask, *switched_on]
        updates = [gr.update(visible=False)]
        for place in range(count):
            updates += given if place == unit else [gr.update() for _ in given]
        return updates

    return take
