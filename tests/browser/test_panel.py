"""What people do with the panel, in a browser, with the demo models on the embedded host.

The journeys build on each other as a person's do; each says what it starts from.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from chromium import Page, browser
from embedded_server import running
from PIL import Image

from controlstack.hosts.embedded.demo_models import BASE, CONTROLNETS, EXAMPLES, FOLDER

pytestmark = pytest.mark.browser

SCENE = "a blue sphere and a yellow cone on stone under a pale sky, daylight"
JOB = {"prompt": SCENE, "steps": 6, "width": 128, "height": 128, "cfg_scale": 3, "seed": 2}
PICTURES = FOLDER / EXAMPLES
PANEL = "#txt2img_controlnet"
SHOTS = os.environ.get("CONTROLSTACK_SCREENSHOTS")
"""A folder that gets a picture of the window after each journey."""


def unit(place: int, suffix: str) -> str:
    return f"{PANEL}_ControlNet-{place}{suffix}"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    models = ["--ckpt", str(FOLDER / f"{BASE}.safetensors"), "--controlnet-dir", str(FOLDER / CONTROLNETS)]
    host = running(tmp_path_factory.mktemp("host"), *models, page=True)
    with host as client, browser(tmp_path_factory.mktemp("profile"), (1400, 2000)) as driver:
        page = Page(driver, client.address)
        start(page)
        yield page
        assert page.strangers() == set()


@pytest.fixture(autouse=True)
def shot(page, request):
    yield
    if SHOTS:
        page.run("document.querySelector(arguments[0]).scrollIntoView()", f"{PANEL}_accordion")
        name = request.node.name.removeprefix("test_")
        page.save(Path(SHOTS) / f"{name}-gradio-{page.run('return window.gradio_config.version')}.png")


def start(page: Page) -> None:
    """A fresh page with the job's values and the panel open."""
    page.open()
    for name, value in JOB.items():
        page.fill(f"#txt2img_{name}", value)
    page.open_accordion(f"{PANEL}_accordion")
    page.shown(unit(0, "_controlnet_enable_checkbox"))


def paint(page: Page) -> str:
    """Generate; the new picture's infotext."""
    page.fill("#txt2img_infotext", "")
    page.click("#txt2img_generate")
    page.until(
        lambda: "Steps: " in page.value("#txt2img_infotext") or page.all("#html_log_txt2img div.error"),
        "the job's end",
    )
    assert not page.all("#html_log_txt2img div.error"), page.text("#html_log_txt2img")
    return page.value("#txt2img_infotext")


def said_of(infotext: str, place: int) -> dict[str, str]:
    """What an infotext tells of a unit."""
    found = re.search(rf'ControlNet {place}: "(.*?)"', infotext)
    assert found, infotext
    return dict(part.split(": ", 1) for part in found[1].split(", "))


def canny(page: Page) -> None:
    """A picture in unit 0, and Canny."""
    page.upload_to_canvas(unit(0, "_input_image"), PICTURES / "scene.png")
    page.click(unit(0, "_controlnet_type_filter_radio label"), "Canny")
    page.until(lambda: page.value(unit(0, "_controlnet_preprocessor_dropdown")) == "canny", "canny")
    page.until(lambda: "canny" in page.value(unit(0, "_controlnet_model_dropdown")), "a canny model")


def bright(page: Page, selector: str) -> float:
    """How much of the picture in here is bright, 0..1."""
    page.picture(selector)
    return page.run(
        """
        const seen = document.querySelector(arguments[0] + " img");
        const [width, height] = [seen.naturalWidth, seen.naturalHeight];
        const sheet = new OffscreenCanvas(width, height).getContext("2d");
        sheet.drawImage(seen, 0, 0);
        const levels = sheet.getImageData(0, 0, width, height).data;
        return levels.filter((level, i) => i % 4 === 0 && level > 128).length / (width * height);
        """,
        selector,
    )


def test_canny_from_a_picture_to_a_result_with_its_map(page):
    canny(page)
    assert page.is_checked(unit(0, "_controlnet_enable_checkbox"))  # putting a picture in enables the unit
    page.click(unit(0, "_controlnet_trigger_preprocessor"))
    assert page.size(unit(0, "_generated_image")) == (128, 128)  # what the network gets
    assert 0.005 < bright(page, unit(0, "_generated_image")) < 0.3  # lines
    said = said_of(paint(page), 0)
    assert (said["Module"], said["Weight"]) == ("canny", "1.0")
    assert said["Model"].startswith("controlstack-demo-canny")
    assert page.size("#txt2img_gallery") == (128, 128)
    page.until(lambda: len(page.all("#txt2img_maps img")) >= 1, "the map")


def test_its_infotext_pasted_gives_the_same_unit(page):
    """The unit of before, with other values than the usual ones."""
    page.fill(unit(0, "_controlnet_control_weight_slider"), 0.65)
    page.fill(unit(0, "_controlnet_ending_control_step_slider"), 0.8)
    page.click(unit(0, "_controlnet_control_mode_radio label"), "ControlNet is more important")
    infotext = paint(page)
    assert said_of(infotext, 0)["Weight"] == "0.65"
    start(page)
    page.upload_to_canvas(unit(0, "_input_image"), PICTURES / "scene.png")
    page.fill("#txt2img_prompt", "something else")
    page.fill("#txt2img_infotext", infotext)
    page.click("#txt2img_paste")
    page.until(lambda: page.value("#txt2img_prompt") == SCENE, "the prompt")
    weight = unit(0, "_controlnet_control_weight_slider")
    page.until(lambda: page.value(weight) == "0.65", "the weight")
    page.until(lambda: page.is_checked(unit(0, "_controlnet_enable_checkbox")), "the unit is on")
    assert said_of(paint(page), 0) == said_of(infotext, 0)


def test_a_preset_brings_the_units_back(page):
    """The unit of before."""
    page.open_accordion(f"{PANEL}_presets")
    page.fill(f"{PANEL}_preset_name", "my edges")
    page.click(f"{PANEL}_preset_save")
    page.until(lambda: "my edges" in page.value(f"{PANEL}_preset_dropdown"), "the preset's name")
    page.fill(unit(0, "_controlnet_control_weight_slider"), 1.5)
    time.sleep(1)  # as long as a person takes from a field to a button
    page.click(f"{PANEL}_preset_load")
    page.until(lambda: page.value(unit(0, "_controlnet_control_weight_slider")) == "0.65", "the weight")
    assert page.value(unit(0, "_controlnet_preprocessor_dropdown")) == "canny"


def test_two_units_stacked_and_seen_in_the_overview(page):
    """The unit of before, and a depth map in the next."""
    page.click("#txt2img_controlnet_tabs button", "ControlNet Unit 1")
    page.shown(unit(1, "_controlnet_enable_checkbox"))
    page.upload_to_canvas(unit(1, "_input_image"), PICTURES / "scene-depth.png")
    page.click(unit(1, "_controlnet_type_filter_radio label"), "Depth")
    page.until(lambda: "depth" in page.value(unit(1, "_controlnet_model_dropdown")), "a depth model")
    page.choose(unit(1, "_controlnet_preprocessor_dropdown"), "none")
    page.check(unit(1, "_controlnet_enable_checkbox"))
    infotext = paint(page)
    assert said_of(infotext, 1)["Model"].startswith("controlstack-demo-depth")
    assert said_of(infotext, 0)["Module"] == "canny"
    page.until(lambda: len(page.all("#txt2img_maps img")) >= 2, "both maps")
    page.open_accordion(f"{PANEL}_overview_accordion")
    page.click(f"{PANEL}_overview_refresh")
    row = f"{PANEL}_overview .cnet-row[data-unit='1']"
    page.until(lambda: page.all(row) and "depth" in page.text(row).lower(), "the second unit's row")


def test_a_region_mask_is_used(page, tmp_path):
    """Both units of before; the second one acts on the left half alone."""
    before = paint(page)
    assert "Region Mask Hash" not in before
    left = Image.new("L", (128, 128))
    left.paste(255, (0, 0, 64, 128))
    left.save(tmp_path / "left.png")
    page.click("#txt2img_controlnet_tabs button", "ControlNet Unit 1")
    page.check(unit(1, "_controlnet_mask_upload_checkbox"))
    page.upload_to_canvas(unit(1, "_mask_image"), tmp_path / "left.png")
    page.until(lambda: "Region Mask Hash" in said_of(paint(page), 1), "the mask in the infotext")


def test_a_pose_is_edited(page):
    """A pose from a file, moved by hand, is what the unit gets."""
    start(page)
    points = np.array([[64, 20], [64, 40], [50, 40], [44, 60], [40, 78], [78, 40], [84, 60], [88, 78]])
    body = np.zeros((18, 3))
    body[:8] = np.hstack([points, np.ones((8, 1))])
    people = [{"people": [{"pose_keypoints_2d": body.ravel().tolist()}], "canvas_width": 128}]
    people[0]["canvas_height"] = 128
    page.click(unit(0, "_controlnet_type_filter_radio label"), "OpenPose")
    page.until(lambda: "openpose" in page.value(unit(0, "_controlnet_model_dropdown")), "a pose model")
    page.fill(unit(0, "_pose_json"), json.dumps(people[0]))
    page.run("document.querySelector(arguments[0]).click()", unit(0, "_pose_render"))
    page.picture(unit(0, "_generated_image"))
    page.click(unit(0, "_pose_edit"))
    nose = page.shown('.cnet-pose-point[data-part="body"][data-point="0"]')
    from selenium.webdriver import ActionChains

    ActionChains(page.driver).drag_and_drop_by_offset(nose, 40, 0).perform()
    if SHOTS:
        page.save(Path(SHOTS) / f"pose-editor-gradio-{page.run('return window.gradio_config.version')}.png")
    page.click(".cnet-modal button", "Send to the unit")
    moved = page.until(lambda: json.loads(page.value(unit(0, "_pose_json"))), "the pose sent")
    sent = (moved[0] if isinstance(moved, list) else moved)["people"][0]["pose_keypoints_2d"]
    assert sent[0] > 0.51  # of the width; it was 0.5
    page.check(unit(0, "_controlnet_enable_checkbox"))
    assert said_of(paint(page), 0)["Model"].startswith("controlstack-demo-openpose")
    page.until(lambda: len(page.all("#txt2img_maps img")) >= 1, "the drawn pose")


def test_a_mistake_is_told_at_its_unit(page):
    start(page)
    page.click(unit(0, "_controlnet_type_filter_radio label"), "Canny")
    page.until(lambda: "canny" in page.value(unit(0, "_controlnet_model_dropdown")), "a canny model")
    page.check(unit(0, "_controlnet_enable_checkbox"))
    page.click("#txt2img_generate")
    page.says("picture", unit(0, "_mistake"))
    page.says("picture", "#html_log_txt2img div.error")
    assert not page.all("#txt2img_gallery img")
