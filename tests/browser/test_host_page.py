"""The embedded host's own page in a browser: what a person does there without any unit."""

from __future__ import annotations

import shutil

import pytest
from chromium import Page, browser
from embedded_server import HERE, running
from test_embedded_server import photograph

pytestmark = pytest.mark.browser

LOGIN = "ann:secret"


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    data = tmp_path_factory.mktemp("host")
    folder = data / "extensions/selectable"
    (folder / "scripts").mkdir(parents=True)
    (folder / "javascript").mkdir()
    (folder / "javascript/a.js").write_text("onUiLoaded(() => { window.seen = gradioApp().tagName; });")
    (folder / "javascript/b.mjs").write_text("export const six = 6; window.product = six * 7;")
    (folder / "style.css").write_text("body { --selectable: yes; }")
    shutil.copy(HERE / "selectable_script.py", folder / "scripts")
    with running(data, page=True, login=LOGIN) as client:
        yield client


@pytest.fixture(scope="module")
def page(host, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        page = Page(driver, host.address)
        driver.get(host.address.replace("//", f"//{LOGIN}@") + "/latest")  # Chromium remembers who it is
        page.open()
        yield page
        assert page.strangers() == set()


def small(page, tab="txt2img", **fields):
    for name, value in {"steps": 3, "width": 64, "height": 96, "seed": 5, **fields}.items():
        page.fill(f"#{tab}_{name}", value)


def test_from_a_prompt_to_a_picture_with_its_infotext(page):
    small(page, prompt="a cat", neg_prompt="blurry")
    page.click("#txt2img_generate")
    assert page.size("#txt2img_gallery") == (64, 96)
    said = page.value("#txt2img_infotext")
    assert said.startswith("a cat\nNegative prompt: blurry\nSteps: 3, Sampler: Euler")
    assert not page.find("#txt2img_live").text


def test_an_infotext_sets_the_fields(page):
    text = "a dog\nNegative prompt: rain\nSteps: 7, Sampler: DDIM, CFG scale: 3.5, Seed: 11, Size: 96x64"
    page.fill("#txt2img_infotext", text)
    page.click("#txt2img_paste")
    page.until(lambda: page.value("#txt2img_prompt") == "a dog", "the prompt")
    wanted = {"neg_prompt": "rain", "steps": "7", "cfg_scale": "3.5", "seed": "11", "width": "96"}
    page.until(lambda: {name: page.value(f"#txt2img_{name}") for name in wanted} == wanted, str(wanted))
    assert page.value("#txt2img_sampling") == "DDIM"


def test_a_picture_goes_on_to_img2img(page):
    small(page, prompt="a cat")
    page.click("#txt2img_generate")
    page.until(lambda: "a cat" in page.value("#txt2img_infotext"))
    page.click("#txt2img_send_to_img2img")
    page.until(lambda: page.value("#img2img_prompt") == "a cat", "the prompt on the other tab")
    page.until(lambda: page.value("#img2img_height") == "96")
    page.shown("#img2img_generate")
    page.until(lambda: page.all("#img2img_image img, #img2img_image canvas"), "the picture")
    page.click("#img2img_generate")
    assert page.size("#img2img_gallery") == (64, 96)
    assert "Denoising strength: 0.75" in page.value("#img2img_infotext")
    page.tab("txt2img")


def test_a_mistake_is_said_and_stays(page):
    page.anew()
    page.open()
    page.tab("img2img")
    page.click("#img2img_generate")
    page.says("There is no picture to start from", "#html_log_img2img div.error")
    page.tab("txt2img")


def test_png_info_reads_and_sends(page, tmp_path):
    from PIL.PngImagePlugin import PngInfo

    said = PngInfo()
    said.add_text("parameters", "a bird\nSteps: 9, Sampler: Euler a, CFG scale: 4, Seed: 77, Size: 128x192")
    photograph().save(tmp_path / "bird.png", pnginfo=said)
    page.tab("PNG Info")
    page.upload("#pnginfo_image", tmp_path / "bird.png")
    page.until(lambda: page.value("#pnginfo_infotext").startswith("a bird"), "the infotext")
    page.click("#pnginfo_send_to_txt2img")
    page.until(lambda: page.value("#txt2img_prompt") == "a bird", "the prompt")
    page.shown("#txt2img_generate")
    page.until(lambda: (page.value("#txt2img_height"), page.value("#txt2img_seed")) == ("192", "77"))


def test_settings_are_kept(page, host):
    page.tab("Settings")
    page.fill("#setting_a_number", 8)
    page.click("#settings_submit")
    page.says("A number", "#settings_result")
    assert host.ask("/sdapi/v1/options")["a_number"] == 8
    assert '"a_number": 8' in (host.data / "config.json").read_text()
    page.tab("txt2img")


def test_scripts_of_extensions(page):
    assert page.until(lambda: page.run("return window.seen")) == "GRADIO-APP"
    assert page.run("return window.product") == 42
    style = "return getComputedStyle(document.body).getPropertyValue('--selectable').trim()"
    assert page.run(style) == "yes"
    page.choose("#txt2img_script_list", "Two prompts")
    page.until(lambda: "Second prompt" in page.find("#tab_txt2img").text, "what the script shows")
    small(page, prompt="a cat")
    page.click("#txt2img_generate")
    page.until(lambda: len(page.all("#txt2img_gallery img")) >= 2, "two pictures")
