"""docs/preprocessors.md says what the preprocessors declare."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_list_of_preprocessors_is_up_to_date():
    """`python docs/preprocessors.py` writes it."""
    spec = importlib.util.spec_from_file_location("preprocessors", DOCS / "preprocessors.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "preprocessors.md").read_text("utf-8") == module.page()
