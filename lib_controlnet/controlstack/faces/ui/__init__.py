"""The panel in the WebUI's tab. Nothing here needs gradio until a page is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controlstack.faces.ui import host_page, pasting, values
from controlstack.hosts import builtin
from controlstack.hosts.webui import MAX_UNITS, WebUI
from controlstack.log import log

if TYPE_CHECKING:
    from controlstack.faces.ui.layout import PanelView
    from controlstack.faces.ui.stock import Stock


def panel(script: Any, host: WebUI, *, is_img2img: bool) -> list[Any]:
    """The panel of a tab, and the script's arguments: see `values`.

    script: gets `infotext_fields`, what pasting parameters sets

    A failure while building leaves a sentence in the panel's place, and the slots: the API works on.
    """
    import gradio as gr

    slots = [gr.State(values.marker()) for _ in range(values.SLOTS)]
    if host.beside_builtin:
        takeover()
    try:
        view, stock = _build("img2img" if is_img2img else "txt2img", host)
    except Exception as error:  # noqa: BLE001  the host would leave the whole script out
        log.exception("The panel could not be built")
        notice(f"{host.name}'s panel could not be built: {error}. The log says more; the HTTP API works.")
        return slots
    script.infotext_fields = pasting.fields(view, host.name, stock)
    script.paste_field_names = []
    return [*slots, *(component for unit in view.units for component in unit.values())]


remember = host_page.remember
"""For the host's `on_after_component`."""


def _build(tab: str, host: WebUI) -> tuple[PanelView, Stock]:
    from controlstack.faces.ui import layout, wiring
    from controlstack.faces.ui.stock import Stock

    stock = Stock(host)
    count = min(max(int(host.option("control_net_unit_count", 3)), 1), MAX_UNITS)
    view = layout.panel(tab, host.name, count, MAX_UNITS, stock)
    wiring.wire(view, stock)
    return view, stock


def takeover() -> None:
    """A button that has ControlStack take the place of the host's built-in ControlNet."""
    import gradio as gr

    said = gr.Markdown("The host's built-in ControlNet is on, so this one keeps out of its way.")
    button = gr.Button("Disable the built-in ControlNet and use ControlStack instead")
    button.click(builtin.disable, inputs=[], outputs=[said])


def notice(sentence: str) -> list[Any]:
    """A sentence in place of the panel, without arguments."""
    import gradio as gr

    gr.Markdown(sentence)
    return []
