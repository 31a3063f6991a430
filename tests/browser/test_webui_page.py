"""The panel in a real WebUI's page: CONTROLSTACK_WEBUI_URL, with this extension, and models for Canny, for
depth and for poses that fit the loaded checkpoint. Each journey starts from a fresh page.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from chromium import Page, browser

from controlstack import pose
from controlstack.hosts.embedded.demo_models import EXAMPLES, FOLDER

URL = os.environ.get("CONTROLSTACK_WEBUI_URL", "")
SHOTS = os.environ.get("CONTROLSTACK_SCREENSHOTS")
"""A folder that gets a picture of the window after each journey."""
pytestmark = [
    pytest.mark.browser,
    pytest.mark.webui,
    pytest.mark.skipif(not URL, reason="CONTROLSTACK_WEBUI_URL names no running WebUI"),
]
JOB = {"prompt": "a cone on stone", "steps": 4, "width": 128, "height": 128, "seed": 2}
PICTURES = FOLDER / EXAMPLES
RESULTS = "#txt2img_gallery :is(.thumbnails, .grid-wrap) img"


class Panel(Page):
    """The WebUI's page with the panel open. prefix: of the panel's element ids"""

    prefix = ""

    def start(self) -> None:
        self.open()
        self.until(lambda: self.run("return Boolean(window.controlstack?.page)"), "our scripts")
        self.until(self.job_stays, "the job's values")
        self.prefix = "#" + self.run(
            "return controlstack.page.panels().find(({tab}) => tab === 'txt2img').prefix"
        )
        self.open_accordion(f"{self.prefix}_accordion")
        self.shown(self.unit(0, "_controlnet_enable_checkbox"))

    def job_stays(self) -> bool:
        """Whether the page keeps the job's values. Forge's page sets others of its own while it starts."""
        for name, value in JOB.items():
            self.fill(f"#txt2img_{name}", value)
        time.sleep(3)
        return all(self.value(f"#txt2img_{name}") == str(value) for name, value in JOB.items())

    def unit(self, place: int, suffix: str) -> str:
        return f"{self.prefix}_ControlNet-{place}{suffix}"

    def choose_type(self, place: int, kind: str) -> None:
        """A control type with a model of its own."""
        self.click(self.unit(place, "_controlnet_type_filter_radio label"), kind)
        model = self.unit(place, "_controlnet_model_dropdown")
        self.until(lambda: kind.lower() in self.value(model).lower(), f"a model for {kind}")

    def canny(self) -> None:
        self.upload_to_canvas(self.unit(0, "_input_image"), PICTURES / "scene.png")
        self.choose_type(0, "Canny")
        self.until(lambda: self.value(self.unit(0, "_controlnet_preprocessor_dropdown")) == "canny", "canny")
        self.until(lambda: self.is_checked(self.unit(0, "_controlnet_enable_checkbox")), "a picture enables")

    def paint(self, *said: str) -> str:
        """Generate until the infotext says this; the infotext."""
        self.click("#txt2img_generate")
        for text in said:
            self.says(text, "#html_info_txt2img")
        return self.text("#html_info_txt2img")

    def draw_region(self, place: int) -> None:
        """Left of the middle of a picture."""
        if self.gradio == 4:  # there, all units share a canvas, which shows the unit's picture
            self.click(self.unit(place, "_draw"))
            canvas = f"{self.prefix}_draw_editor"
        else:
            canvas = self.unit(place, "_mask_image")
            self.upload_to_canvas(canvas, PICTURES / "scene.png")
        self.shown(f"{canvas} canvas")
        time.sleep(2)  # until the picture lies on the canvas
        self.brush(canvas, [(0.3, 0.3), (0.3, 0.7), (0.25, 0.7), (0.25, 0.3)])
        time.sleep(1)  # as long as a person takes from the canvas to a button
        if self.gradio == 4:
            self.click(f"{self.prefix}_draw_region")
            self.picture(self.unit(place, "_mask_image"))

    def open_unit(self, place: int) -> None:
        self.click(f"{self.prefix}_tabs button", f"ControlNet Unit {place}")
        self.shown(self.unit(place, "_controlnet_enable_checkbox"))


@pytest.fixture
def page(tmp_path, request):
    with browser(tmp_path / "profile", (1400, 2400)) as driver:
        page = Panel(driver, URL.rstrip("/"))
        page.start()
        plain = page.strangers()  # what the host's own page asks others for
        yield page
        if SHOTS:
            page.run("document.querySelector(arguments[0]).scrollIntoView()", f"{page.prefix}_accordion")
            page.save(Path(SHOTS) / f"{request.node.name.removeprefix('test_')}.png")
        assert page.strangers() <= plain


def test_canny_from_a_picture_to_a_result_with_its_map_and_paste_back(page):
    page.canny()
    page.click(page.unit(0, "_controlnet_trigger_preprocessor"))
    assert page.size(page.unit(0, "_generated_image")) == (128, 128)
    weight = page.unit(0, "_controlnet_control_weight_slider")
    page.fill(weight, 0.65)
    infotext = page.paint("Module: canny", "Weight: 0.65")
    page.until(lambda: len(page.all(RESULTS)) >= 2, "the result and the map")

    page.fill(weight, 1)
    page.fill("#txt2img_prompt", infotext)
    page.click("#tab_txt2img #paste")
    page.until(lambda: page.value("#txt2img_prompt") == JOB["prompt"], "the prompt")
    page.until(lambda: page.value(weight) == "0.65", "the weight")
    assert page.value(page.unit(0, "_controlnet_preprocessor_dropdown")) == "canny"


def test_two_units_and_a_region_drawn_by_hand(page):
    page.canny()
    page.open_unit(1)
    page.upload_to_canvas(page.unit(1, "_input_image"), PICTURES / "scene-depth.png")
    page.choose_type(1, "Depth")
    page.choose(page.unit(1, "_controlnet_preprocessor_dropdown"), "none")
    page.check(page.unit(1, "_controlnet_mask_upload_checkbox"))
    page.draw_region(1)
    page.says("[2 units]", f"{page.prefix}_accordion .label-wrap")
    page.paint("ControlNet 0", "ControlNet 1", "Region Mask Hash")
    page.until(lambda: len(page.all(RESULTS)) >= 3, "the result and both maps")
    page.open_accordion(f"{page.prefix}_overview_accordion")
    page.click(f"{page.prefix}_overview_refresh")
    row = f"{page.prefix}_overview .cnet-row[data-unit='1']"
    page.until(lambda: page.all(row) and "Depth" in page.text(row), "the second unit's row")


def test_a_pose_is_edited(page):
    """Somebody who stands takes a hand off the hip."""
    from selenium.webdriver import ActionChains

    page.choose_type(0, "OpenPose")
    page.click(page.unit(0, "_pose_edit"))
    wrist = page.shown('.cnet-pose-point[data-part="body"][data-point="4"]')
    ActionChains(page.driver).drag_and_drop_by_offset(wrist, -60, 0).perform()
    page.click(".cnet-modal button", "Send to the unit")
    sent = page.until(lambda: page.value(page.unit(0, "_pose_json")), "the pose")
    found = pose.parse(json.loads(sent))
    across = found.people[0].body[:, 0] / found.width
    assert across[7] - across[1] + 0.03 < across[1] - across[4], "one wrist is farther out than the other"
    page.picture(page.unit(0, "_generated_image"))
    page.check(page.unit(0, "_controlnet_enable_checkbox"))
    page.paint("ControlNet 0")
    page.until(lambda: len(page.all(RESULTS)) >= 2, "the drawn pose")


def test_a_preset_brings_the_unit_back(page):
    page.canny()
    weight = page.unit(0, "_controlnet_control_weight_slider")
    page.fill(weight, 0.65)
    page.open_accordion(f"{page.prefix}_presets")
    page.fill(f"{page.prefix}_preset_name", "my edges")
    page.click(f"{page.prefix}_preset_save")
    page.until(lambda: "my edges" in page.value(f"{page.prefix}_preset_dropdown"), "the preset's name")
    page.fill(weight, 1.5)
    time.sleep(1)  # as long as a person takes from a field to a button
    page.click(f"{page.prefix}_preset_load")
    page.until(lambda: page.value(weight) == "0.65", "the weight")
    assert page.value(page.unit(0, "_controlnet_preprocessor_dropdown")) == "canny"
    page.paint("Module: canny", "Weight: 0.65")  # its picture is still there


def test_a_mistake_is_told_at_its_unit(page):
    page.choose_type(0, "Canny")
    page.check(page.unit(0, "_controlnet_enable_checkbox"))
    page.click("#txt2img_generate")
    page.says("picture", page.unit(0, "_mistake"))
    page.says("picture", f"{page.prefix}_accordion .cnet-mistakes")
