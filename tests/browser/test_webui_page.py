"""The panel in a real WebUI's page: CONTROLSTACK_WEBUI_URL, with this extension and a model for Canny."""

from __future__ import annotations

import os

import pytest
from chromium import Page, browser

from controlstack.hosts.embedded.demo_models import EXAMPLES, FOLDER

URL = os.environ.get("CONTROLSTACK_WEBUI_URL", "")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.webui,
    pytest.mark.skipif(not URL, reason="CONTROLSTACK_WEBUI_URL names no running WebUI"),
]
JOB = {"prompt": "a cone on stone", "steps": 4, "width": 128, "height": 128, "seed": 2}


@pytest.fixture
def page(tmp_path):
    """The WebUI's page with the panel open."""
    with browser(tmp_path, (1400, 2400)) as driver:
        page = Page(driver, URL.rstrip("/"))
        page.open()
        for name, value in JOB.items():
            page.fill(f"#txt2img_{name}", value)
        panel = page.find("#tab_txt2img .cnet-accordion").get_attribute("id").removesuffix("_accordion")
        page.panel = f"#{panel}"
        page.open_accordion(f"{page.panel}_accordion")
        page.shown(f"{page.panel}_ControlNet-0_controlnet_enable_checkbox")
        page.plain = page.strangers()  # what the host's own page asks others for
        yield page


def test_canny_a_mistake_and_paste_back(page):
    unit = f"{page.panel}_ControlNet-0"
    page.click(f"{unit}_controlnet_type_filter_radio label", "Canny")
    page.until(lambda: page.value(f"{unit}_controlnet_preprocessor_dropdown") == "canny", "canny")
    model = f"{unit}_controlnet_model_dropdown"
    if page.value(model) == "None":
        page.choose(model, next(name for name in page.entries(model) if name != "None"))

    page.check(f"{unit}_controlnet_enable_checkbox")
    page.click("#txt2img_generate")
    page.says("picture", f"{unit}_mistake")

    page.upload_to_canvas(f"{unit}_input_image", FOLDER / EXAMPLES / "scene.png")
    page.click(f"{unit}_controlnet_trigger_preprocessor")
    assert page.size(f"{unit}_generated_image") == (128, 128)
    page.fill(f"{unit}_controlnet_control_weight_slider", 0.65)
    page.click("#txt2img_generate")
    page.says("Module: canny", "#html_info_txt2img")
    infotext = page.text("#html_info_txt2img")
    assert "Weight: 0.65" in infotext
    page.until(
        lambda: len(page.all("#txt2img_gallery .thumbnails img, #txt2img_gallery .grid-wrap img")) >= 2
    )

    page.fill(f"{unit}_controlnet_control_weight_slider", 1)
    page.fill("#txt2img_prompt", infotext)
    page.click("#tab_txt2img #paste")
    page.until(lambda: page.value("#txt2img_prompt") == JOB["prompt"], "the prompt")
    page.until(lambda: page.value(f"{unit}_controlnet_control_weight_slider") == "0.65", "the weight")
    assert page.strangers() <= page.plain
