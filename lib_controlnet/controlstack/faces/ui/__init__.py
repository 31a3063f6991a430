"""The panel in the WebUI's tab."""

from __future__ import annotations

from typing import Any

from controlstack.hosts import builtin
from controlstack.hosts.webui import MAX_UNITS
from controlstack.unit import ControlNetUnit


def slots() -> list[Any]:
    """One state per unit, the script's only arguments.

    There is one more than may be enabled, so that a caller who stacks too many units is told: hosts drop
    what has no slot without a word.
    """
    import gradio as gr

    gr.Markdown("Units come over the [HTTP API](/docs) so far; there is nothing to set on this page yet.")
    return [gr.State(ControlNetUnit()) for _ in range(MAX_UNITS + 1)]


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
