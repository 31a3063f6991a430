"""What people do with the panel, in a browser, with the demo models on the embedded host.

Each journey starts with a fresh page, and no request of it may leave for another host.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Page, browser
from embedded_server import running
from PIL import Image

from controlstack import pose
from controlstack.hosts.embedded.demo_models import BASE, CONTROLNETS, EXAMPLES, FOLDER

pytestmark = pytest.mark.browser

SCENE = "a blue sphere and a yellow cone on stone under a pale sky, daylight"
JOB = {"prompt": SCENE, "steps": 4, "width": 128, "height": 128, "cfg_scale": 3, "seed": 2}
PICTURES = FOLDER / EXAMPLES
PANEL = "#txt2img_controlnet"
SHOTS = os.environ.get("CONTROLSTACK_SCREENSHOTS")
"""A folder that gets a picture of the window after each journey."""


def unit(place: int, suffix: str) -> str:
    return f"{PANEL}_ControlNet-{place}{suffix}"


RESULT = "#txt2img_gallery"
WHOLE = 1000
"""Letters that a picture takes at least; a shortened one has fewer."""
WEIGHT = unit(0, "_controlnet_control_weight_slider")
RADIOS = ("_controlnet_control_mode_radio", "_controlnet_resize_mode_radio")
FIELDS = (
    *("_controlnet_preprocessor_dropdown", "_controlnet_model_dropdown", "_controlnet_control_weight_slider"),
    *("_controlnet_start_control_step_slider", "_controlnet_ending_control_step_slider"),
    *("_controlnet_threshold_A_slider", "_controlnet_threshold_B_slider"),
)


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    models = ["--ckpt", str(FOLDER / f"{BASE}.safetensors"), "--controlnet-dir", str(FOLDER / CONTROLNETS)]
    host = running(tmp_path_factory.mktemp("host"), *models, page=True)
    with host as client, browser(tmp_path_factory.mktemp("profile"), (1400, 2400)) as driver:
        yield Page(driver, client.address)


@pytest.fixture
def page(window, request):
    """A fresh page with the job's values and the panel open."""
    window.anew()
    window.requests()
    window.open()
    for name, value in JOB.items():
        window.fill(f"#txt2img_{name}", value)
    window.open_accordion(f"{PANEL}_accordion")
    window.shown(unit(0, "_controlnet_enable_checkbox"))
    yield window
    shoot(window, request.node.name.removeprefix("test_"))
    asked = window.requests()
    assert any(address.startswith(window.address) for address in asked), "the network log is empty"
    assert window.strangers(asked) == set()


def shoot(page: Page, name: str, top: str = f"{PANEL}_accordion") -> None:
    """A picture of the window from here on, if somebody wants one."""
    if SHOTS:
        page.run("document.querySelector(arguments[0]).scrollIntoView()", top)
        time.sleep(1)  # until what was just changed has been painted
        page.save(Path(SHOTS) / f"{name}-gradio-{page.run('return window.gradio_config.version')}.png")


def pause() -> None:
    """As long as a person takes from a field to a button."""
    time.sleep(1)


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


def values(page: Page) -> dict[str, str]:
    """What stands in the first unit's fields."""
    radio = (
        "return document.querySelector(arguments[0] + ' input:checked').closest('label').textContent.trim()"
    )
    chosen = {name: page.run(radio, unit(0, name)) for name in RADIOS}
    return chosen | {name: page.value(unit(0, name)) for name in FIELDS}


def sent_with_pictures(page: Page) -> dict[str, Any]:
    """The first unit as the page would send it, from *What will be sent*."""
    page.open_accordion(unit(0, "_sent"))
    return page.until(lambda: _told_with_pictures(page), "what will be sent")


def _told_with_pictures(page: Page) -> dict[str, Any] | None:
    """None as long as the newest gradio, which has just made the switch, has not heard of it."""
    page.check(unit(0, "_sent_pictures"), False)
    page.check(unit(0, "_sent_pictures"))
    pause()
    page.click(unit(0, "_sent_show"))
    told = json.loads(page.until(lambda: page.value(unit(0, "_sent_json")), "the unit as JSON"))
    return told if len(told["image"]) > WHOLE else None


def choose_type(page: Page, place: int, name: str) -> None:
    """A control type, and the model that belongs to it."""
    page.click(unit(place, "_controlnet_type_filter_radio label"), name)
    model = unit(place, "_controlnet_model_dropdown")
    page.until(lambda: name.lower() in page.value(model), f"a model for {name}")


def canny(page: Page) -> None:
    """A picture in the first unit, and Canny."""
    page.upload_to_canvas(unit(0, "_input_image"), PICTURES / "scene.png")
    choose_type(page, 0, "Canny")
    page.until(lambda: page.value(unit(0, "_controlnet_preprocessor_dropdown")) == "canny", "canny")
    page.until(lambda: page.is_checked(unit(0, "_controlnet_enable_checkbox")), "a picture enables the unit")


def unusual(page: Page) -> None:
    """Values of the first unit that are not the usual ones."""
    page.fill(WEIGHT, 0.65)
    page.fill(unit(0, "_controlnet_ending_control_step_slider"), 0.8)
    page.click(unit(0, "_controlnet_control_mode_radio label"), "ControlNet is more important")


def others(page: Page) -> None:
    """Again others, which must not stay."""
    choose_type(page, 0, "Depth")
    page.fill(WEIGHT, 1.5)
    page.fill(unit(0, "_controlnet_ending_control_step_slider"), 1)
    page.click(unit(0, "_controlnet_control_mode_radio label"), "Balanced")
    pause()


def pixels(page: Page, selector: str) -> np.ndarray:
    """The picture in here, H W 3 of 0..1."""
    page.picture(selector)
    drawn = page.run(
        """
        const seen = document.querySelector(arguments[0] + " img");
        const sheet = document.createElement("canvas");
        [sheet.width, sheet.height] = [seen.naturalWidth, seen.naturalHeight];
        sheet.getContext("2d").drawImage(seen, 0, 0);
        return sheet.toDataURL("image/png");
        """,
        selector,
    )
    return decoded(drawn.partition(",")[2])


def decoded(told: str) -> np.ndarray:
    """A picture in base64, H W 3 of 0..1."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(told))).convert("RGB")) / 255


def test_canny_from_a_picture_to_a_result_with_its_map(page):
    canny(page)
    page.click(unit(0, "_controlnet_trigger_preprocessor"))
    assert page.size(unit(0, "_generated_image")) == (128, 128)  # what the network gets
    assert 0.005 < pixels(page, unit(0, "_generated_image")).mean() < 0.3  # lines
    said = said_of(paint(page), 0)
    assert (said["Module"], said["Weight"]) == ("canny", "1.0")
    assert said["Model"].startswith("controlstack-demo-canny")
    assert page.size("#txt2img_gallery") == (128, 128)
    page.until(lambda: len(page.all("#txt2img_maps img")) >= 1, "the map")
    shoot(page, "result", "#txt2img_gallery")


def test_two_units_stacked_and_seen_in_the_overview(page):
    canny(page)
    page.click("#txt2img_controlnet_tabs button", "ControlNet Unit 1")
    page.shown(unit(1, "_controlnet_enable_checkbox"))
    page.upload_to_canvas(unit(1, "_input_image"), PICTURES / "scene-depth.png")
    choose_type(page, 1, "Depth")
    page.choose(unit(1, "_controlnet_preprocessor_dropdown"), "none")
    page.until(lambda: page.is_checked(unit(1, "_controlnet_enable_checkbox")), "the unit is on")
    infotext = paint(page)
    assert said_of(infotext, 1)["Model"].startswith("controlstack-demo-depth")
    assert said_of(infotext, 0)["Module"] == "canny"
    page.until(lambda: len(page.all("#txt2img_maps img")) >= 2, "both maps")
    page.open_accordion(f"{PANEL}_overview_accordion")
    page.click(f"{PANEL}_overview_refresh")
    row = f"{PANEL}_overview .cnet-row[data-unit='1']"
    page.until(lambda: page.all(row) and "depth" in page.text(row).lower(), "the second unit's row")
    shoot(page, "stack")
    page.press(f"{PANEL}_overview .cnet-row[data-unit='0']", "Enter")
    page.shown(unit(0, "_controlnet_enable_checkbox"))


def test_a_region_is_drawn_by_hand(page):
    """Left of the middle of the unit's picture, and there alone the unit acts. It does so in the later steps:
    in the first ones all of a picture follows from each part."""
    paint(page)
    without = pixels(page, RESULT)
    canny(page)
    page.fill(unit(0, "_controlnet_start_control_step_slider"), 0.5)
    page.check(unit(0, "_controlnet_mask_upload_checkbox"))
    if page.gradio == 4:  # there, all units share a canvas, which shows the unit's picture
        page.click(unit(0, "_draw"))
        canvas = f"{PANEL}_draw_editor"
    else:
        canvas = unit(0, "_mask_image")
        page.upload_to_canvas(canvas, PICTURES / "scene.png")
    page.shown(f"{canvas} canvas")
    time.sleep(2)  # until the picture lies on the canvas
    page.brush(canvas, [(0.3, 0.3), (0.3, 0.5), (0.3, 0.7), (0.25, 0.7), (0.25, 0.3)])
    pause()
    shoot(page, "region-canvas", canvas)
    if page.gradio == 4:
        page.click(f"{PANEL}_draw_region")
        page.picture(unit(0, "_mask_image"))
    region = decoded(sent_with_pictures(page)["effective_region_mask"])[..., 0] > 0.5
    half = region.shape[1] // 2
    assert 0.05 < region[:, :half].mean() < 0.9
    assert not region[:, half:].any()
    old = page.picture(RESULT)
    assert "Region Mask Hash" in said_of(paint(page), 0)
    page.until(lambda: page.picture(RESULT) != old, "the result")
    change = np.abs(pixels(page, RESULT) - without).mean(2)
    assert change[region].mean() > 5 * change[~region].mean()


def test_a_pose_is_edited(page):
    """Somebody who stands takes a hand off the hip."""
    from selenium.webdriver import ActionChains

    choose_type(page, 0, "OpenPose")
    page.click(unit(0, "_pose_edit"))
    wrist = page.shown('.cnet-pose-point[data-part="body"][data-point="4"]')
    ActionChains(page.driver).drag_and_drop_by_offset(wrist, -60, 0).perform()
    shoot(page, "pose-editor")
    page.click(".cnet-modal button", "Send to the unit")
    found = pose.parse(json.loads(page.until(lambda: page.value(unit(0, "_pose_json")), "the pose sent")))
    across = found.people[0].body[:, 0] / found.width
    assert across[1] == pytest.approx(0.5, abs=0.01), "the neck stays in the middle"
    assert across[7] - across[1] + 0.03 < across[1] - across[4], "one wrist is farther from it than the other"
    assert page.size(unit(0, "_generated_image")) == (128, 128)
    page.check(unit(0, "_controlnet_enable_checkbox"))
    assert said_of(paint(page), 0)["Model"].startswith("controlstack-demo-openpose")
    page.until(lambda: len(page.all("#txt2img_maps img")) >= 1, "the drawn pose")


def test_its_infotext_pasted_gives_the_same_unit(page):
    canny(page)
    unusual(page)
    infotext, before = paint(page), values(page)
    assert said_of(infotext, 0)["Weight"] == "0.65"
    others(page)
    page.check(unit(0, "_controlnet_enable_checkbox"), False)
    page.fill("#txt2img_prompt", "something else")
    page.fill("#txt2img_infotext", infotext)
    page.click("#txt2img_paste")
    page.until(lambda: page.value("#txt2img_prompt") == SCENE, "the prompt")
    page.until(lambda: page.value(WEIGHT) == "0.65", "the weight")
    page.until(lambda: page.is_checked(unit(0, "_controlnet_enable_checkbox")), "the unit is on")
    page.until(lambda: values(page) == before, f"{before} again")
    assert said_of(paint(page), 0) == said_of(infotext, 0)


def test_a_preset_brings_the_units_back(page):
    choose_type(page, 0, "Canny")
    unusual(page)
    before = values(page)
    page.open_accordion(f"{PANEL}_presets")
    pause()
    page.fill(f"{PANEL}_preset_name", "my edges")
    pause()
    page.click(f"{PANEL}_preset_save")
    page.until(lambda: "my edges" in page.value(f"{PANEL}_preset_dropdown"), "the preset's name")
    others(page)
    page.click(f"{PANEL}_preset_load")
    page.until(lambda: page.value(WEIGHT) == "0.65", "the weight")
    page.until(lambda: values(page) == before, f"{before} again")


def test_a_mistake_is_told_at_its_unit(page):
    choose_type(page, 0, "Canny")
    page.check(unit(0, "_controlnet_enable_checkbox"))
    page.click("#txt2img_generate")
    page.says("picture", unit(0, "_mistake"))
    page.says("picture", "#html_log_txt2img div.error")
    assert not page.all("#txt2img_gallery img")
