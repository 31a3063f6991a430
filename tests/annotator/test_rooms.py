"""Every file below annotator/ is a room that was found, came, and put something on the shelf."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from controlstack import annotator, preprocess, rooms

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "annotator").rglob("*.py"))


def _import_name(file: Path) -> str:
    return "controlstack." + ".".join(file.relative_to(ROOT).with_suffix("").parts)


def test_every_file_is_found_and_nothing_else():
    assert FILES
    assert list(rooms.names(annotator)) == sorted(map(_import_name, FILES))


def test_no_folder_is_a_regular_package():
    """One `__init__.py` would hide the WebUI's own `annotator` package."""
    assert not [file for file in FILES if file.name == "__init__.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_registers_a_preprocessor_that_runs_its_own_code(file: Path):
    assert _import_name(file) in {p.run.__module__ for p in preprocess.everything()}


def test_every_room_comes():
    assert rooms.load(annotator) == {}


def test_loading_all_rooms_imports_nothing_heavy():
    code = """if True:
        import json, sys
        from controlstack import annotator, rooms
        rooms.load(annotator)
        print(json.dumps([*sys.modules]))
    """
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT / "lib_controlnet",
    )
    loaded = {name.partition(".")[0] for name in json.loads(run.stdout)}
    assert "cv2" in loaded
    heavy = {
        "transformers",
        "controlnet_aux",
        "diffusers",
        "mediapipe",
        "onnxruntime",
        "skimage",
        "torchvision",
    }
    assert not loaded & heavy


def test_the_documented_example_is_a_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """docs/add-a-preprocessor.md: its file, saved under the path it names, is found, loaded and runs."""
    page = (ROOT / "docs" / "add-a-preprocessor.md").read_text(encoding="utf-8")
    path = re.search(r"`annotator/(\w+/\w+\.py)`", page)
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert path
    assert code
    room = tmp_path / path[1]
    room.parent.mkdir()
    room.write_text(code[1], encoding="utf-8")
    package = ModuleType("documented")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "documented", package)
    monkeypatch.setattr(preprocess, "_shelf", {})

    assert rooms.load(package) == {}

    (documented,) = preprocess._shelf.values()
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 255
    result = documented.run(picture, documented.ask(resolution=128))
    assert result.shape == (128, 128, 3)
    assert result.dtype == np.uint8
    assert result[:, 64].min() > 0
    assert not result[:, :32].any()
