"""Imports go one way: scripts -> faces -> hosts -> engine -> rooms -> shelves -> words."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lib_controlnet" / "controlstack"

LAYERS = [
    {"errors", "log", "unit", "image", "geometry", "joints", "curve", "schedule", "pose", "strokes"}
    | {"weight_types", "palettes", "progress"},
    {
        *("rooms", "preprocess", "family", "weights", "layout", "catalog", "control_types"),
        *("packages", "downloads", "networks", "copied_encoder", "embeddings", "onnx"),
        *("face_analysis", "hand_mesh", "image_prompt"),
    },
    {"families", "annotator"},
    {"sources", "plan", "evaluation", "session", "batches"},
    {"hosts"},
    {"faces", "bench", "models", "train"},
]
HOST_PACKAGES = {"modules", "modules_forge", "backend", "ldm", "sgm", "ldm_patched", "launch"}
WEB_PACKAGES = {"gradio", "fastapi", "starlette", "uvicorn"}
HEAVY = {
    "diffusers",
    "transformers",
    "controlnet_aux",
    "mediapipe",
    "onnxruntime",
    "insightface",
    "torchvision",
}


def files() -> list[Path]:
    rooms = sorted((ROOT / "annotator").rglob("*.py"))
    return [*sorted(PACKAGE.rglob("*.py")), *rooms]


def place(file: Path) -> tuple[str, ...]:
    """The parts of a file's name below `controlstack`."""
    if file.is_relative_to(PACKAGE):
        return file.relative_to(PACKAGE).with_suffix("").parts
    return ("annotator", *file.relative_to(ROOT / "annotator").with_suffix("").parts)


def imports(file: Path, *, at_load: bool = False) -> Iterator[tuple[str, ...]]:
    """Every imported module or name as its dotted parts; `at_load`: only those outside functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if at_load and node in inside:
            continue
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield from ((*str(node.module).split("."), alias.name) for alias in node.names)


def layer(part: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if part in names)


@pytest.mark.parametrize("file", files(), ids=lambda file: "/".join(place(file)))
def test_a_file_imports_only_what_it_may(file: Path) -> None:
    where = place(file)
    if where == ("__init__",):
        return
    own = layer(where[0])
    embedded = where[:2] == ("hosts", "embedded")
    for target in imports(file):
        if target[0] == "controlstack" and len(target) > 1 and target[1] != "__version__":
            assert layer(target[1]) <= own, f"{where} reaches up to {target}"
            if where[0] in {"families", "annotator"} and target[1] == where[0]:
                pytest.fail(f"the room {where} imports the room {target}")
        assert target[0] not in HOST_PACKAGES or where[0] == "hosts", f"{where} imports the host's {target}"
        assert target[0] not in WEB_PACKAGES or where[0] == "faces" or embedded, f"{where} imports {target}"
    if own < layer("hosts"):
        heavy = {target[0] for target in imports(file, at_load=True)} & HEAVY
        assert not heavy, f"{where} loads {heavy} at import"


def test_every_module_has_a_layer() -> None:
    names = {place(file)[0] for file in files()} - {"__init__"}
    assert names <= set().union(*LAYERS)


def test_loading_all_rooms_loads_nothing_heavy() -> None:
    code = (
        "import sys; from controlstack import family, preprocess\n"
        "assert not preprocess._load_rooms() and not family._load_rooms()\n"
        f"print(sorted(set({sorted(HEAVY)}) & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_script_decides_nothing() -> None:
    """It imports the host's script classes and callbacks, hands over, and stays within a screen."""
    script = ROOT / "scripts" / "controlnet.py"
    hosts = {target[1] for target in imports(script) if target[0] in HOST_PACKAGES}
    assert hosts <= {"scripts", "script_callbacks"}
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 90
