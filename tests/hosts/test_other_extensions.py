"""Other extensions beside ours in a running host: as ADetailer does, by import, with a job inside a job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from control_server import STEPS, Host, difference, job, pixels, serving, unit
from numpy.typing import NDArray

HERE = Path(__file__).parent
PATHS = [
    "scripts.external_code",
    "extensions.sd-webui-controlnet.scripts.external_code",
    "extensions-builtin.sd-webui-controlnet.scripts.external_code",
    "internal_controlnet.external_code",
    "internal_controlnet.args",
]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    scripts = folder / "extensions" / "adetailer" / "scripts"
    scripts.mkdir(parents=True)
    shutil.copy(HERE / "nested_job_script.py", scripts / "nested_job.py")
    with serving(folder) as host:
        yield host


def asked(host: Host, nested: dict[str, Any], *units: Any, **fields: Any) -> dict[str, Any]:
    body = job(*units, **fields)
    body["alwayson_scripts"]["nested job"] = {"args": [nested]}
    answer = host.post("/sdapi/v1/txt2img", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def first(answer: dict[str, Any]) -> NDArray[np.uint8]:
    return pixels(answer["images"][0])


def test_every_import_path_leads_to_one_class(host: Host) -> None:
    told = json.loads(asked(host, {"paths": PATHS})["info"])["extra_generation_params"]
    assert told["One class"] is True
    assert told["Models"].count("net") == 3
    assert told["Sliders"] == ["Resolution", "Low Threshold", "High Threshold"]


def test_a_job_within_the_job_takes_its_own_unit_and_the_picture_of_the_outer(host: Host) -> None:
    """The unit brings no picture: img2img's own serves, as ADetailer counts on."""
    plain = first(asked(host, {}))
    repainted = first(asked(host, {"unit": {}}))
    host.watch()
    controlled = asked(host, {"unit": {"module": "canny", "model": "net0"}})
    assert host.watch()["network_calls"] > 0
    assert difference(first(controlled), repainted) >= 5
    assert difference(first(controlled), plain) >= 5
    assert len(controlled["images"]) == 1, "the inner job's map stays with the inner job"


def test_the_outer_jobs_units_stay_its_own(host: Host) -> None:
    """Two batches: the job within the first takes nothing from the second."""
    host.watch()
    outer = asked(host, {"unit": {"module": None, "model": "net1"}}, unit(), n_iter=2)
    calls = host.watch()["network_calls"]
    assert len(outer["images"]) == 2 + 1
    alone = asked(host, {}, unit(), n_iter=2)
    assert host.watch()["network_calls"] == 2 * STEPS
    assert calls > 2 * STEPS
    assert np.array_equal(pixels(outer["images"][2]), pixels(alone["images"][2])), "the outer unit's map"
    assert host.watch()["hooks"] == 0


def test_a_mistake_within_is_said(host: Host) -> None:
    """The job inside raises at its first step; whoever called it is told."""
    asked(host, {"unit": {"module": "canny", "model": "nobody"}})
    assert "There is no control model called 'nobody'" in (host.folder / "log.txt").read_text()
    assert host.watch()["hooks"] == 0


def test_beside_another_controlnet_ours_stays_off_and_says_so(tmp_path: Path) -> None:
    scripts = tmp_path / "extensions" / "sd-webui-controlnet" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "external_code.py").write_text("whose = 'theirs'\n")
    (scripts / "controlnet.py").write_text(
        "from modules import scripts as host\nfrom scripts import external_code\n"
        "class Theirs(host.Script):\n"
        "    def title(self): return 'ControlNet'\n"
        "    def show(self, is_img2img): return host.AlwaysVisible\n"
        "    def ui(self, is_img2img): return []\n"
    )
    code = f"""
from controlstack.hosts import embedded
embedded.boot(["--data-dir", {str(tmp_path)!r}])
from modules import scripts, shared
print([script.title() for script in scripts.scripts_txt2img.scripts])
print([key for key in shared.opts.data_labels if key.startswith("control")])
import sys
print(sys.modules["scripts.external_code"].whose)
"""
    path = os.pathsep.join([str(HERE.parents[1] / "lib_controlnet"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['ControlStack', 'ControlNet']", "[]", "theirs"]
    said = "ControlStack is off: the extension 'sd-webui-controlnet' is ControlNet here"
    assert done.stderr.count(said) == 1
