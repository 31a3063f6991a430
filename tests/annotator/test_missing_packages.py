"""One package that is absent or broken stops the preprocessors that need it, and says so; no other one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlstack import packages, preprocess
from controlstack.errors import ControlError

CASES = [
    (package, how)
    for package in (
        "controlnet_aux",
        "transformers",
        "timm",
        "einops",
        "torchvision",
        "mediapipe",
        "onnxruntime",
        "insightface",
    )
    for how in ("absent", "broken")
]

CODE = """
import json, os, sys
from importlib.abc import MetaPathFinder
from pathlib import Path

import numpy as np
import torch
from controlstack import preprocess
from controlstack.downloads import Store
from controlstack.errors import ControlError
from controlstack.networks import Networks


class Absent(MetaPathFinder):
    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def take_away(package, how, folder):
    if how == "absent":
        sys.meta_path.insert(0, Absent(package))
    else:
        broken = folder / "broken" / package
        broken.mkdir(parents=True)
        (broken / "__init__.py").write_text("raise RuntimeError('broken on purpose')")
        sys.path.insert(0, str(broken.parent))


def outcome(package, how, folder):
    take_away(package, how, folder)
    rooms = preprocess._load_rooms()
    shelf = preprocess.everything()
    networks = Networks(Store([folder], offline=True), "cpu")
    for file in {file for p in shelf for file in p.files}:
        torch.save({"some": torch.zeros(1)}, folder / file.name)

    def listed():
        return {p.name: str(preprocess.unavailable(p, networks) or "") for p in shelf}

    def said(name):
        p = preprocess.find(name)
        try:
            preprocess.Cache(networks=networks).run(p, np.zeros((64, 64, 3), np.uint8), p.ask(64))
        except ControlError as error:
            return str(error)
        return "a map"

    asked = [p.name for p in shelf if package in p.packages] + ["canny", "lineart_anime_denoise"]
    before = listed()
    return {
        "rooms": [*rooms], "before": before, "said": {name: said(name) for name in asked}, "after": listed()
    }


for package, how in json.loads(sys.argv[1]):
    if os.fork() == 0:  # a process of its own, without importing torch again
        folder = Path(sys.argv[2], package, how)
        folder.mkdir(parents=True)
        (folder / "outcome.json").write_text(json.dumps(outcome(package, how, folder)))
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What happens in each case. All weights lie there and hold a wrong tensor, which is said in the end."""
    if not hasattr(os, "fork"):
        pytest.skip("needs processes that fork")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(CASES), str(folder)],
        check=True,
        cwd=Path(__file__).parents[2] / "lib_controlnet",
    )
    return folder


@pytest.mark.parametrize(("package", "how"), CASES)
def test_only_those_who_need_it_stop(package: str, how: str, outcomes: Path):
    found: dict[str, Any] = json.loads((outcomes / package / how / "outcome.json").read_text())
    listing = [p for p in preprocess.everything() if package in p.packages]
    # of two packages that are absent the first is told
    needing = {
        p.name for p in listing if not any(packages.fault(other) for other in {*p.packages} - {package})
    }
    mend = "pip install " if how == "absent" else "pip install --force-reinstall "

    assert found["rooms"] == []
    before = {name for name in needing if f"package {package} " in found["before"][name]}
    assert before == (needing if how == "absent" else set())
    for name in needing:
        for sentence in (found["said"][name], found["after"][name]):
            assert f"The package {package} " in sentence
            assert mend + package in sentence
    others = found["after"].keys() - {p.name for p in listing}
    assert not [name for name in others if f"package {package}" in found["after"][name]]
    assert found["said"]["canny"] == "a map"
    assert "weights of another network" in found["said"]["lineart_anime_denoise"]


@pytest.mark.parametrize("name", [p.name for p in preprocess.everything() if "mediapipe" in p.packages])
def test_a_mediapipe_without_solutions_is_the_wrong_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Since 1.0 it has none; the sentence says which release to install."""
    preprocessor = preprocess.find(name)
    absent = {package for package in preprocessor.packages if find_spec(package) is None}
    for package in absent | {"mediapipe"}:  # but for MediaPipe's solutions everything is there
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    for module in [module for module in sys.modules if module.partition(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packages, "_failed", {})
    with pytest.raises(ControlError, match=r"pip install --force-reinstall mediapipe==0\.10\.21"):
        preprocess.Cache().run(preprocessor, np.zeros((64, 64, 3), np.uint8), preprocessor.ask(64))
    assert "mediapipe cannot be imported" in str(preprocess.unavailable(preprocessor, preprocess.Networks()))
    for package in absent | {"mediapipe"}:
        sys.modules.pop(package, None)
