"""The drop-in surface in a real A1111.

Start it with this extension and, as another one, a folder whose `scripts/` holds `nested_job_script.py`; any
checkpoint and two control models for it. `CONTROLSTACK_WEBUI_URL` names it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from control_server import Host, difference, job, pixels, unit
from numpy.typing import NDArray
from test_other_extensions import PATHS

URL = os.environ.get("CONTROLSTACK_WEBUI_URL", "")
pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(not URL, reason="CONTROLSTACK_WEBUI_URL names no running WebUI"),
]
JOB = dict(width=128, height=128, steps=4, cfg_scale=7)
SHOWN = 2


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host(URL, Path())
    with host.session:
        yield host


@pytest.fixture(scope="module")
def models(host: Host) -> list[str]:
    return host.session.get("/controlnet/model_list").json()["model_list"]


@pytest.fixture(scope="module")
def plain(host: Host) -> NDArray[np.uint8]:
    return host.pictures(**JOB)[0]


def nested(host: Host, asked: dict[str, Any], *units: Any, **fields: Any) -> dict[str, Any]:
    if "nested job" not in host.session.get("/sdapi/v1/scripts").json()["txt2img"]:
        pytest.skip("this WebUI runs without nested_job_script.py")
    body = job(*units, **JOB, **fields)
    body["alwayson_scripts"]["nested job"] = {"args": [asked]}
    answer = host.post("/sdapi/v1/txt2img", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def grid(host: Host, axis: str, values: str, *units: Any) -> httpx.Response:
    """The X/Y/Z script over HTTP, with the pictures it is made of."""
    listed = host.session.get("/sdapi/v1/script-info").json()
    script = next(one for one in listed if one["name"] == "x/y/z plot" and not one["is_img2img"])
    filled = [arg["value"] for arg in script["args"]]
    labels = [arg["label"] for arg in script["args"]]
    filled[0] = script["args"][0]["choices"].index(f"[ControlNet] {axis}")
    filled[1] = values
    for other in ("Y type", "Z type"):
        filled[labels.index(other)] = 0
    for tick, on in (("Include Sub Images", True), ("Use text inputs instead of dropdowns", True)):
        filled[labels.index(tick)] = on
    body = job(*units, **JOB, script_name="x/y/z plot", script_args=filled)
    return host.post("/sdapi/v1/txt2img", body)


def test_every_import_path_leads_to_one_class_also_for_who_loads_first(host: Host) -> None:
    paths = [*PATHS, "extensions.sd-webui-controlnet-stack.scripts.external_code"]
    told = json.loads(nested(host, {"paths": paths})["info"])["extra_generation_params"]
    assert told["One class"] is True


def test_a_job_within_the_job(host: Host, models: list[str]) -> None:
    repainted = pixels(nested(host, {"unit": {}})["images"][0])
    controlled = nested(host, {"unit": {"module": "canny", "model": models[0]}})["images"]
    assert len(controlled) == 1
    assert difference(pixels(controlled[0]), repainted) >= SHOWN


def test_an_axis_of_the_grid_makes_the_pictures_that_single_jobs_make(host: Host, models: list[str]) -> None:
    asked = unit(model=models[0])
    cells = grid(host, "Weight", "0, 0.5-1 (+0.5)", asked).json()["images"][1:]
    alone = [host.pictures({**asked, "weight": weight}, **JOB)[0] for weight in (0, 0.5, 1)]
    assert all(np.array_equal(pixels(cell), one) for cell, one in zip(cells, alone, strict=True))
    assert difference(alone[0], alone[2]) >= SHOWN


def test_a_list_on_an_axis_counts_unit_by_unit(host: Host, models: list[str]) -> None:
    first, second = unit(model=models[0]), unit(model=models[1])
    cell = grid(host, "Weight", "[0.5, None]", first, second).json()["images"][-1]
    assert np.array_equal(pixels(cell), host.pictures({**first, "weight": 0.5}, second, **JOB)[0])


def test_a_mistake_on_an_axis_is_said(host: Host) -> None:
    assert "'heavy' is no number" in grid(host, "Weight", "heavy").text


def test_after_grids_and_nested_jobs_a_plain_picture_is_plain(
    host: Host, models: list[str], plain: NDArray[np.uint8]
) -> None:
    grid(host, "Model", models[0], unit(model=models[0]))
    nested(host, {"unit": {"module": "canny", "model": models[0]}})
    assert np.array_equal(host.pictures(**JOB)[0], plain)
    options = host.session.get("/sdapi/v1/options").json()
    assert options["control_net_allow_script_control"] is False


def test_a_pictures_parameters_paste_into_the_pages_fields(host: Host, models: list[str]) -> None:
    """`png-info` runs what the paste button runs."""
    asked = unit(model=models[0], weight=0.8, guidance_end=0.9, control_mode=1)
    picture = host.post("/sdapi/v1/txt2img", job(asked, **JOB)).json()["images"][0]
    pasted = host.post("/sdapi/v1/png-info", {"image": picture}).json()["parameters"]
    assert pasted["ControlNet 0 weight"] == 0.8
    assert pasted["ControlNet 0 guidance_end"] == 0.9
    assert pasted["ControlNet 0 control_mode"] == "My prompt is more important"
    assert pasted["ControlNet 0 model"] == models[0]
