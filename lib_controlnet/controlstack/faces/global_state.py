"""What other extensions import as `global_state`: the lists of models and preprocessors, as the incumbent and
Forge name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controlstack import control_types, hosts, preprocess
from controlstack.faces import external_code
from controlstack.preprocess import Preprocessor


def update_cn_models() -> None:
    """Look at the model folders again."""
    hosts.current().catalog.refresh()


def get_all_controlnet_names() -> list[str]:
    """Forge's list: "None", then every control model."""
    return [control_types.NONE, *external_code.get_models()]


def get_all_preprocessor_names() -> list[str]:
    """The preprocessors' names."""
    return external_code.get_modules()


def get_preprocessor(name: str) -> Preprocessor:
    """The preprocessor of this name or label. Raises ControlError."""
    return preprocess.find(name)


def _models() -> dict[str, Path | None]:
    catalog = hosts.current().catalog
    return {control_types.NONE: None, **{name: catalog.find(name) for name in catalog.names()}}


_TABLES = {
    "cn_models": _models,
    "cn_models_names": lambda: {name.partition(" [")[0].lower(): name for name in _models()},
    "preprocessor_aliases": lambda: {p.name: p.label for p in preprocess.everything()},
    "reverse_preprocessor_aliases": lambda: {p.label: p.name for p in preprocess.everything()},
}


def __getattr__(name: str) -> Any:
    """The incumbent's tables, as they are now: cn_models from name to file, cn_models_names from lower-case
    stem to name, and two between a preprocessor's name and its label."""
    if name in _TABLES:
        return _TABLES[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
