"""Requests as public clients send them, kept in `clients/`: shapes from each client's code or documentation,
named in the file. Each is answered with control, with the plain picture that it asks for, or with a sentence.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "hosts"))

from control_server import PHOTO, STEPS, Host, difference, job, pixels, png, serving, unit  # noqa: E402

REQUESTS = sorted((HERE / "clients").glob("*.json"))
MASK = np.zeros((256, 256), np.uint8)
MASK[128:] = 255
FILLED = {"<photo>": PHOTO, "<mask>": png(MASK), "<model>": "net0"}
SHOWN = 3
"""Levels of 255 that control has to move a picture by, on average. Every request has two steps."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with serving(tmp_path_factory.mktemp("host")) as host:
        yield host


def filled(value: Any) -> Any:
    """The request with real pictures and a real model."""
    if isinstance(value, dict):
        return {key: filled(one) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one) for one in value]
    return FILLED.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("file", REQUESTS, ids=lambda file: file.stem)
def test_a_clients_request(host: Host, file: Path) -> None:
    request = json.loads(file.read_text(encoding="utf-8"))
    body, expect = filled(request["body"]), request["expect"]
    host.watch()
    answer = host.post(request["route"], body)
    calls = host.watch()["network_calls"]
    if expect == "map":
        assert answer.status_code == 200, answer.text
        assert pixels(answer.json()["images"][0]).std() > 0
    elif expect in ("control", "plain"):
        assert answer.status_code == 200, answer.text
        plain = host.post(request["route"], {**body, "alwayson_scripts": {}}).json()["images"][0]
        moved = difference(pixels(answer.json()["images"][0]), pixels(plain))
        assert (moved >= SHOWN) if expect == "control" else moved == 0
        assert calls == request.get("units", 1) * (expect == "control") * STEPS
    else:
        assert answer.status_code >= 400
        assert re.search(expect, answer.text)


@pytest.fixture
def setting(host: Host) -> Iterator[Callable[..., None]]:
    """Sets settings as programs do; they are put back afterwards."""
    before = host.session.get("/sdapi/v1/options").json()
    changed: dict[str, Any] = {}

    def change(**settings: Any) -> None:
        changed.update(settings)
        assert host.post("/sdapi/v1/options", settings).status_code == 200

    yield change
    host.post("/sdapi/v1/options", {key: before[key] for key in changed})


def test_with_the_lenient_setting_a_failing_unit_is_left_out_and_said(
    host: Host, setting: Callable[..., None]
) -> None:
    wrong = unit(model="nobody")
    plain = host.pictures()[0]
    assert host.post("/sdapi/v1/txt2img", job(wrong)).status_code == 500
    setting(control_net_continue_without_control=True)
    answer = host.post("/sdapi/v1/txt2img", job(wrong))
    assert answer.status_code == 200
    assert np.array_equal(pixels(answer.json()["images"][0]), plain)
    assert "There is no control model called 'nobody'" in answer.json()["info"]
    assert difference(host.pictures(unit())[0], plain) >= SHOWN


def test_detected_maps_are_saved_as_files(host: Host, setting: Callable[..., None]) -> None:
    folder = host.folder / "outputs" / "detected_maps"
    before = set(folder.rglob("*.png"))
    setting(control_net_detectmap_autosaving=True)
    _, canny, ready = host.pictures(unit(), unit(module="none"))
    setting(control_net_no_detectmap=True)
    assert len(host.pictures(unit())) == 1
    saved = sorted({*folder.rglob("*.png")} - before)
    assert [file.parent.name for file in saved] == ["canny", "canny"], "a ready map is the user's own"
    assert np.array_equal(np.asarray(Image.open(saved[0])), canny)
    assert ready.shape == canny.shape


def test_preprocessors_look_for_weights_where_the_user_says(tmp_path: Path) -> None:
    """--controlnet-annotator-models-path; a name that the host gives its models' folder comes after it."""
    code = f"""
from pathlib import Path
from controlstack.hosts import current, embedded
embedded.boot(["--data-dir", {str(tmp_path)!r}, "--controlnet-annotator-models-path", "weights"])
print(*current().cache.networks.store.folders[:2], sep="\\n")
"""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "lib_controlnet"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == ["weights", str(tmp_path / "models" / "ControlNetPreprocessor")]


def test_programs_cannot_choose_where_files_go(
    host: Host, setting: Callable[..., None], tmp_path: Path
) -> None:
    host.post("/sdapi/v1/options", {"control_net_detectedmap_dir": str(tmp_path)})
    setting(control_net_detectmap_autosaving=True)
    host.pictures(unit())
    assert not list(tmp_path.iterdir())
