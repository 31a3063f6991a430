"""The adapter in a real Forge or reForge, asked over HTTP: `webui_server.py` says what it needs.

`COMMANDLINE_ARGS` names the host's flags (without a GPU: --always-cpu --all-in-fp32). Where its built-in
ControlNet is enabled, pictures are compared with its own; where it is disabled, the tests of A1111 hold too.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from control_server import PHOTO, difference, job, pixels, png
from numpy.typing import NDArray
from test_a1111 import (  # noqa: F401
    HIRES,
    JOB,
    STEPS,
    Client,
    plain,
    test_a_failure_in_the_unet_is_told_and_leaves_nothing,
    test_a_job_inside_a_job_leaves_the_outer_one_its_control,
    test_a_mistake_is_said,
    test_a_refiner_of_the_same_kind_is_controlled_too,
    test_an_interrupted_job_leaves_nothing,
    test_batches_are_the_same_pictures_with_one_map,
    test_every_checkpoint_is_controlled_or_says_why_not,
    test_img2img_lends_its_picture,
    test_modes_and_the_rows_they_act_on,
    test_one_call_of_its_unet_equals_the_embedded_hosts,
    test_units_change_the_picture_and_show_their_maps,
    test_what_must_not_act_changes_no_bit,
)
from test_other_extensions import PATHS
from webui_server import ABSENT, DIR, KNOWN_TO_FORGE, URL, running

pytestmark = [pytest.mark.webui, pytest.mark.skipif(not (URL or DIR), reason=ABSENT)]

ROOT = Path(__file__).resolve().parents[2]
HALF = png(np.pad(np.full((256, 128, 3), 255, np.uint8), ((0, 0), (0, 128), (0, 0))))


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running(tmp_path_factory.mktemp("webui") / "data") as serves:
        client = Client(serves)
        if not client.watch().get("forge"):
            pytest.skip("this WebUI is not of the Forge family")
        client.pictures(steps=1)  # it loads its checkpoint for the first job
        yield client


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test that asks the host: the UNet has the hooks that it had, nobody hears the denoiser."""
    if "anywhere" not in request.fixturenames:
        yield
        return
    client = request.getfixturevalue("anywhere")
    before = client.watch()
    yield
    after = client.watch()
    assert (after["hooks"], after["callbacks"]) == (before["hooks"], before["callbacks"])


def beside(client: Client) -> bool:
    """Whether the built-in ControlNet is enabled."""
    return "controlstack" in client.host.session.get("/sdapi/v1/scripts").json()["txt2img"]


@pytest.fixture(scope="module")
def host(anywhere: Client) -> Client:
    """With ours in place of the built-in, under its title."""
    if beside(anywhere):
        pytest.skip("the built-in ControlNet is enabled")
    return anywhere


def test_in_place_of_the_built_in_ours_has_its_routes_and_import_names(host: Client) -> None:
    assert host.host.session.get("/controlnet/version").json() == {"version": 3}
    assert host.watch()["external_code"] == "controlstack.faces.external_code"


@pytest.fixture(scope="module")
def caller(host: Client) -> Client:
    """With an extension that calls ours as ADetailer does."""
    if "nested job" not in host.host.session.get("/sdapi/v1/scripts").json()["txt2img"]:
        pytest.skip("this WebUI runs without nested_job_script.py")
    return host


def nested(client: Client, asked: dict[str, Any]) -> dict[str, Any]:
    scripts = {"nested job": {"args": [asked]}}
    answer = client.host.post("/sdapi/v1/txt2img", {**job(**JOB), "alwayson_scripts": scripts})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_every_import_path_leads_to_one_class(caller: Client) -> None:
    told = json.loads(nested(caller, {"paths": [*PATHS, "lib_controlnet.external_code"]})["info"])
    assert told["extra_generation_params"]["One class"] is True


@pytest.mark.parametrize("way", ["a1111", "forge"])
def test_a_caller_in_the_way_of_adetailer_controls_its_own_job(
    caller: Client,
    plain: NDArray[np.uint8],  # noqa: F811
    way: str,
) -> None:
    model = next(m for m in caller.models() if m.startswith("net0"))
    repainted = pixels(nested(caller, {"unit": {}})["images"][0])
    caller.watch()
    answer = nested(caller, {"unit": {"module": "canny", "model": model}, "as": way})
    assert caller.watch()["network_calls"] >= STEPS - 1
    assert len(answer["images"]) == 1
    assert difference(pixels(answer["images"][0]), repainted) >= 2
    assert np.array_equal(caller.pictures()[0], plain)


def test_rows_of_prompts_joined_by_and(host: Client) -> None:
    host.watch()
    host.pictures({**unit("net0"), "control_mode": "ControlNet is more important"}, prompt="a cat AND a dog")
    assert sum(host.watch()["rows"]) == 2 * STEPS


def test_hires_fix_is_controlled_in_both_passes(host: Client) -> None:
    host.watch()
    _, *maps = host.pictures(unit("net0"), **HIRES)
    assert host.watch()["network_calls"] == 2 * STEPS
    assert [m.shape[:2] for m in maps] == [(192, 192), (128, 128)]


def unit(net: str, **fields: Any) -> dict[str, Any]:
    """Spelled so that the built-in takes it too."""
    return {"enabled": True, "module": "None", "model": net, "image": PHOTO, **fields}


TWO = [unit("net0"), unit("net1", weight=0.7)]
SAME: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one unit": ([unit("net0")], {}),
    "the first half": ([unit("net0", guidance_end=0.5)], {}),
    "all but the first step": ([unit("net0", guidance_start=0.25)], {}),
    "two units": (TWO, {}),
    "three units": ([*TWO, unit("net2", guidance_start=0.5)], {}),
    "prompt": ([unit("net0", control_mode="My prompt is more important")], {}),
    "control": ([unit("net0", control_mode="ControlNet is more important")], {}),
    "region": ([unit("net0", mask_image=HALF)], {}),
    "AND, two pictures": ([unit("net0")], dict(batch_size=2, prompt="a cat AND a dog")),
    "no guidance": ([unit("net0")], dict(cfg_scale=1)),
    "hires fix": ([unit("net0")], HIRES),
    "img2img": ([unit("net0")], dict(route="img2img", init_images=[PHOTO], denoising_strength=0.75)),
    **{family: ([unit(file)], {}) for family, file in KNOWN_TO_FORGE.items()},
}
IGNORED_BY_REFORGE = {"prompt", "control", "region"}
"""Its built-in has lost the code that reads control modes and masks."""


@pytest.mark.parametrize("case", SAME)
def test_a_picture_is_that_of_the_built_in(anywhere: Client, case: str) -> None:
    if not beside(anywhere):
        pytest.skip("the built-in ControlNet is disabled")
    full = {name.split(" [")[0]: name for name in anywhere.models()}
    units, fields = SAME[case]
    said = [{**one, "model": full[one["model"]]} for one in units]
    theirs, ours, bare = (
        _picture(anywhere, fields, scripts)
        for scripts in ({"ControlNet": {"args": said}}, {"ControlStack": {"args": said}}, {})
    )
    assert difference(ours, bare) > 0.5
    assert difference(theirs, bare) > 0.5, "when the built-in fails, it paints without control"
    if case in IGNORED_BY_REFORGE and np.array_equal(theirs, _picture(anywhere, fields, _without(said))):
        pytest.skip("this built-in ignores it")
    changed, apart = (np.abs(ours.astype(int) - other) for other in (bare, theirs))
    print(f"{case}: {changed.mean():.2f}, {changed.max()}; apart {apart.mean():.4f}, {apart.max()}")
    assert apart.max() <= 1


def _without(units: list[dict[str, Any]]) -> dict[str, Any]:
    whole = {"control_mode": "Balanced", "mask_image": None}
    return {"ControlNet": {"args": [{**one, **whole} for one in units]}}


def _picture(client: Client, fields: dict[str, Any], scripts: dict[str, Any]) -> NDArray[np.uint8]:
    asked = {**JOB, **fields, "alwayson_scripts": scripts}
    route = asked.pop("route", "txt2img")
    answer = client.host.post(f"/sdapi/v1/{route}", job(**asked))
    assert answer.status_code == 200, answer.text
    return pixels(answer.json()["images"][0])


def test_beside_the_built_in_its_names_stay_its_own(anywhere: Client) -> None:
    if not beside(anywhere):
        pytest.skip("the built-in ControlNet is disabled")
    get = anywhere.host.session.get
    assert get("/controlnet/version").status_code == 404
    assert "None" in get("/controlnet/model_list").json()["model_list"]
    assert get("/controlstack/version").json() == {"version": 3}
    assert anywhere.watch()["external_code"] == "lib_controlnet.external_code"


ON_CPU = """
import sys
from importlib.util import find_spec

sys.argv += ["--always-cpu", "--all-in-fp32"]  # Forge's modules read them
if find_spec("ldm_patched"):  # reForge's read them in its own start script only
    from ldm_patched.modules.args_parser import args

    args.always_cpu = args.all_in_fp32 = True

import pytest

"""


@pytest.mark.skipif(not DIR, reason="needs the folder of a WebUI: CONTROLSTACK_WEBUI_DIR")
def test_every_joint_means_the_same_on_its_own_unet() -> None:
    """`test_joints.py` in the host's Python, where its `UNetModel` takes LDM's place. Needs pytest there."""
    webui = Path(str(DIR))
    places = [webui, webui / "packages_3rdparty", ROOT / "lib_controlnet"]
    tests = str(ROOT / "tests" / "hosts" / "test_joints.py")
    run = subprocess.run(
        [webui / "venv" / "bin" / "python", "-c", f"{ON_CPU}sys.exit(pytest.main(['-q', {tests!r}]))"],
        cwd=webui,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert "skipped" not in run.stdout.splitlines()[-1]
