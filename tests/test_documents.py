"""What is written from the registries says what they hold today."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[1] / "docs"


def writer(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_of_preprocessors_is_up_to_date():
    """`python docs/preprocessors.py` writes it."""
    assert (DOCS / "preprocessors.md").read_text("utf-8") == writer("preprocessors").page()


def test_the_table_of_families_and_hosts_is_up_to_date():
    """`python docs/families.py` writes it."""
    text = (DOCS / "families.md").read_text("utf-8")
    assert writer("families").page(text) == text
