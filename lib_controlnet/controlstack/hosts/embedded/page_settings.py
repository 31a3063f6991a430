"""The tab with every setting that the host and its extensions declare."""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import Any

import gradio as gr
from modules import shared
from modules.options import OptionInfo

from controlstack.hosts.embedded import page_gradio

_FIXED = "sd_model_checkpoint"
"""Chosen on the command line."""


def build() -> None:
    """Lay it out and wire it."""
    with gr.Row():
        apply = gr.Button("Apply settings", variant="primary", elem_id="settings_submit")
        said = gr.HTML(elem_id="settings_result")
    shown: dict[str, Any] = {}
    offered = [(key, info) for key, info in shared.opts.data_labels.items() if _is_offered(key, info)]
    for title, members in groupby(sorted(offered, key=_section), _section):
        with gr.Accordion(title, open=True):
            for key, info in members:
                shown[key] = _component(key, info)

    def applied(*values: Any) -> str:
        return _apply(dict(zip(shown, values, strict=True)))

    apply.click(applied, list(shown.values()), said, api_name=False, queue=False)


def _is_offered(key: str, info: OptionInfo) -> bool:
    return key != _FIXED and _arguments(info).get("visible", True)


def _section(entry: tuple[str, OptionInfo]) -> str:
    return entry[1].section[1]


def _arguments(info: OptionInfo) -> dict[str, Any]:
    given = info.component_args() if callable(info.component_args) else info.component_args
    return dict(given or {})


def _component(key: str, info: OptionInfo) -> Any:
    kinds = {bool: gr.Checkbox, int: gr.Number, float: gr.Number}
    kind = info.component or kinds.get(type(info.default), gr.Textbox)
    settings = _arguments(info)
    if kind is gr.Number and isinstance(info.default, int):
        settings["precision"] = 0
    value = getattr(shared.opts, key)
    return page_gradio.made(kind, value=value, label=info.label, elem_id=f"setting_{key}", **settings)


def _apply(values: dict[str, Any]) -> str:
    """Set what has changed and keep it for the next start; what became of that, as HTML."""
    changed, refused = [], []
    for key, value in values.items():
        info = shared.opts.data_labels[key]
        try:
            if shared.opts.set(key, _as_declared(value, info.default)):
                changed.append(info.label)
        except ValueError as error:
            refused.append(f'<div class="error">{escape(str(error))}</div>')
    if changed:
        shared.opts.save(shared.config_file)
    names = "".join(f"<li>{escape(label)}</li>" for label in changed)
    return "".join(refused) + (f"Changed:<ul>{names}</ul>" if changed else "Nothing has changed.")


def _as_declared(value: Any, default: Any) -> Any:
    """Sliders hand over 3 as 3.0 and the other way round."""
    if isinstance(default, bool) or not isinstance(default, (int, float)) or value is None:
        return value
    return type(default)(value)
