"""The embedded host's callbacks around every evaluation of the UNet, over HTTP."""

from __future__ import annotations

import time

import numpy as np
import pytest
from embedded_server import JOB, running
from test_embedded_server import HIRES_JOB, WHOLE, close, disc, encoded, photograph

STEPS = JOB["steps"]
SAMPLERS = ["Euler", "Euler a", "DPM++ 2M", "Heun", "DDIM", "UniPC", "LCM"]


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with running(tmp_path_factory.mktemp("host")) as client:
        yield client


def test_order_and_shapes(host):
    """A1111's: cfg_denoiser, the UNet, cfg_denoised with all rows, CFG, cfg_after_cfg with the pictures."""
    answer = host.txt2img({"x0": "look"}, batch_size=2)
    names = ["cfg_denoiser", "cfg_denoised", "cfg_after_cfg"]
    assert [name for name in answer.hooks() if name.startswith("cfg")] == names * STEPS
    rows, pictures = [4, 4, 12, 8], [2, 4, 12, 8]
    assert answer.of("cfg_denoised") == [[rows, [i, STEPS, "UNet2DConditionModel"]] for i in range(STEPS)]
    assert [facts[:2] for facts in answer.of("cfg_after_cfg")] == [[pictures, i] for i in range(STEPS)]
    without = host.txt2img({"x0": "look"}, batch_size=2, cfg_scale=1.0)
    assert [facts[0] for facts in without.of("cfg_denoised")] == [pictures] * STEPS


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_who_only_looks_changes_nothing(host, sampler):
    """And what it sees obeys CFG: u + scale · (c - u), with the prompts' rows first."""
    seen = host.txt2img({"x0": "look"}, sampler_name=sampler)
    assert np.array_equal(seen.arrays[0], host.txt2img(sampler_name=sampler).arrays[0])
    assert max(apart for *_, apart in seen.of("cfg_after_cfg")) < 1e-4


@pytest.mark.parametrize(
    ("sampler", "place"), [*((name, "after") for name in SAMPLERS), ("Euler", "rows"), ("DDIM", "rows")]
)
def test_the_step_goes_on_from_a_changed_picture(host, sampler, place):
    """The last step of every sampler ends in x0 itself; DDIM's, as SD was trained, with 3 % of noise."""
    wanted = host.txt2img({"edit": "post_sample"}).arrays[0]  # latents of 0.5
    found = host.txt2img({"x0": f"{place}=0.5"}, sampler_name=sampler, steps=4).arrays[0]
    assert np.abs(found - wanted).mean() < (12 if sampler == "DDIM" else 0.1)
    plain = host.txt2img(sampler_name=sampler, steps=4).arrays[0]
    assert np.abs(plain - wanted).mean() > 20


def test_rows_are_told_apart(host):
    """The negative prompt's x0 replaced by the prompt's is a job without CFG."""
    same = host.txt2img({"x0": "same"}).arrays[0]
    assert close(same, host.txt2img(cfg_scale=1.0).arrays[0])
    assert not close(same, host.txt2img().arrays[0])


def test_every_pass(host):
    """High-resolution and inpainting passes too: what is kept stays, the rest becomes the edit."""
    answer = host.txt2img({"x0": "after=0.5"}, **HIRES_JOB, hr_scale=1.5)
    plain = host.txt2img({"edit": "post_sample"}, width=96, height=144).arrays[0]
    assert len(answer.of("cfg_after_cfg")) == 2 * STEPS
    assert np.abs(answer.arrays[0] - plain).max() <= 1
    fields = {**WHOLE, "mask": encoded(disc())}
    painted = [host.img2img(photograph(), probe, **fields).arrays[0] for probe in ({}, {"x0": "after=0.5"})]
    assert close(painted[0][:8], painted[1][:8])
    assert not close(*painted)


RELOADING = """
from pathlib import Path
from modules import script_callbacks, shared

FOLDER = Path(__file__).parent


def say(what):
    with (FOLDER / "said.txt").open("a") as file:
        file.write(what + " ")


def started(page, app):
    app.add_api_route("/reload", shared.state.request_restart, methods=["POST"])
    say("started")


say("loaded")
script_callbacks.on_app_started(started)
script_callbacks.on_before_reload(lambda: say("reload"))
script_callbacks.on_script_unloaded(lambda: say("unloaded-first"))
script_callbacks.on_script_unloaded(lambda: say("unloaded-last"))
"""


def test_scripts_are_loaded_anew(tmp_path):
    """A1111's order at "Reload UI"; nothing is registered twice afterwards, and pictures stay the same."""
    folder = tmp_path / "extensions/reloading/scripts"
    folder.mkdir(parents=True)
    (folder / "reloading.py").write_text(RELOADING)
    with running(tmp_path) as client:
        before = client.txt2img()
        client.ask("/reload", {})
        end = time.monotonic() + 60
        while (folder / "said.txt").read_text().count("started") < 2 and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.5)
        after = client.txt2img()
    said = (folder / "said.txt").read_text().split()
    assert said == ["loaded", "started", "reload", "unloaded-last", "unloaded-first", "loaded", "started"]
    assert np.array_equal(after.arrays[0], before.arrays[0])
    assert after.hooks() == before.hooks()
