"""The panel in the WebUI's tab."""

from __future__ import annotations

from typing import Any

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


def notice(sentence: str) -> list[Any]:
    """A sentence in place of the panel, without arguments."""
    import gradio as gr

    gr.Markdown(sentence)
    return []
