"""Whatever people read on the panel has its Chinese, which hosts take from `localizations/`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from panel_host import PanelHost
from test_ui_page import Built

from controlstack import control_types, preprocess
from controlstack.faces.ui import stack
from controlstack.faces.ui.fields import BY_NAME
from controlstack.unit import ControlNetUnionControlType

CHINESE: dict[str, str] = json.loads(
    (Path(__file__).parents[2] / "localizations" / "zh_CN.json").read_text(encoding="utf-8")
)
NAMES = {
    *(kind.name for kind in control_types.everything(())[1:]),
    *(kind.value for kind in ControlNetUnionControlType),
    *("ControlNet", "JSON", "curl", "Python", "None"),
    *(BY_NAME[name].hint for name in ("weight_curve", "batch_weights")),
}
"""Names of kinds of control and of languages, and how lists are written, are the same in Chinese."""
HIDDEN = ("_input_mode", "_command_run", "_follow", "_pose_render", "_tabs_style")
"""Ends of ids of what only the page's script sees."""


def shown(blocks: Any) -> Iterator[str]:
    """The texts on a page: labels, words on buttons, hints, choices, and pieces of it."""
    for block in blocks.blocks.values():
        name = str(getattr(block, "elem_id", None) or "")
        if name.endswith(HIDDEN):
            continue
        yield from (getattr(block, key, None) or "" for key in ("label", "placeholder"))
        kind = type(block).__name__
        if kind in {"Button", "HTML", "Markdown"}:
            yield re.sub("<[^>]*>", "", str(block.value or ""))
        if kind == "Radio" or name.endswith(BY_NAME["weight_type"].suffix):
            yield from (choice[0] if isinstance(choice, tuple) else choice for choice in block.choices)


def test_every_text_on_the_page(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    texts = {text.strip() for text in shown(Built(PanelHost(tmp_path)).blocks)} - {""}
    assert len(texts) > 100
    assert sorted(texts - NAMES - CHINESE.keys()) == []


def test_every_preprocessors_sliders() -> None:
    sliders = {
        slider.label
        for one in preprocess.everything()
        for slider in (one.resolution, one.a, one.b)
        if slider is not None
    }
    assert sorted(sliders - {""} - CHINESE.keys()) == []


def test_every_row_of_the_overview() -> None:
    from test_ui_stack import named

    titles = set(re.findall(r'<button [^>]*title="([^"]*)"', stack.rows(named("a"))))
    assert len(titles) == 6
    assert titles <= CHINESE.keys()


def test_nothing_is_translated_that_is_not_there() -> None:
    """An empty translation hides a text."""
    assert all(text.strip() for text in CHINESE.values())
