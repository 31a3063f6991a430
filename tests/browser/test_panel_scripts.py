"""The panel's JavaScript in a browser, on a page that has what gradio would put there."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from chromium import Page, browser
from PIL import Image

from controlstack import pose
from controlstack.curve import Curve

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "tests/javascript/panel.html"
U = "#txt2img_controlnet_ControlNet-0"
OTHER = "#txt2img_controlnet_ControlNet-1"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile"), (1300, 900)) as running:
        yield running


@pytest.fixture
def page(driver, tmp_path):
    scripts = [
        f'<script src="{file.as_uri()}"></script>' for file in sorted((ROOT / "javascript").glob("*.js"))
    ]
    html = FIXTURE.read_text("utf-8").replace("../../style.css", (ROOT / "style.css").as_uri())
    (tmp_path / "panel.html").write_text(
        html.replace("<!-- the test puts the scripts here -->", "\n".join(scripts)), "utf-8"
    )
    found = Page(driver, tmp_path.as_uri())
    found.open("/panel.html", ".cnet-curve-plot")
    driver.get_log("browser")
    yield found
    assert driver.get_log("browser") == []


def drag(page, node, across, down):
    from selenium.webdriver import ActionChains

    page.run("arguments[0].scrollIntoView({block: 'center'})", node)
    ActionChains(page.driver).drag_and_drop_by_offset(node, across, down).perform()


def press(page, *keys, held=()):
    from selenium.webdriver import ActionChains

    chain = ActionChains(page.driver)
    for key in held:
        chain.key_down(key)
    chain.send_keys(*keys)
    for key in held:
        chain.key_up(key)
    chain.perform()


def commands(page):
    """What was sent to the server, and whether its button was pressed."""
    text = page.value("#txt2img_controlnet_command")
    sent = json.loads(text) if text else {}
    return {key: value for key, value in sent.items() if key != "at"}


def pressed(page, button):
    return page.until(lambda: button in page.run("return window.pressed"), f"{button} pressed")


def test_a_dragged_point_of_the_curve_is_in_its_text(page):
    page.fill(U + "_weight_curve", "0@0, 1@0.5, 0@1")
    plot = U + "_curve_editor .cnet-curve-plot"
    point = page.find(f"{plot} [data-nth='1']")
    page.until(lambda: point.get_attribute("aria-label") == "Point 2: factor 1 at 0.5")
    drag(page, point, 40, -30)
    curve = Curve.parse(page.value(U + "_weight_curve"))
    box = page.find(plot).rect
    # the plot's drawing is 360 wide and 194 high, 314 and 158 of it between its edges
    share, factor = 0.5 + 40 * 360 / box["width"] / 314, 1 + 2 * 30 * 194 / box["height"] / 158
    assert curve.points[1] == pytest.approx((share, factor), abs=0.02)
    assert [curve.points[0], curve.points[2]] == [(0, 0), (1, 0)]


def test_the_curve_by_keys_buttons_and_shapes(page):
    from selenium.webdriver.common.keys import Keys

    page.find(U + "_curve_editor select").send_keys("Ramp up")
    page.until(lambda: page.value(U + "_weight_curve") == "0@0, 1@1", "the shape")
    page.run("arguments[0].focus()", page.find(U + "_curve_editor [data-nth='1']"))
    press(page, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_UP)
    assert page.value(U + "_weight_curve") == "0@0, 1.1@0.99"
    press(page, Keys.ARROW_LEFT, held=[Keys.SHIFT])
    assert page.value(U + "_weight_curve") == "0@0, 1.1@0.89"
    page.click(U + "_curve_editor button", "+")
    assert len(Curve.parse(page.value(U + "_weight_curve")).points) == 3
    press(page, Keys.DELETE)
    assert page.value(U + "_weight_curve") == "0@0, 1.1@0.89"
    page.click(U + "_curve_editor .cnet-check")
    assert page.value(U + "_weight_curve") == "0@0, 1.1@0.89 smooth"
    page.click(U + "_curve_editor button", "×")
    assert page.value(U + "_weight_curve") == ""


def test_a_curve_that_the_server_set_is_drawn_and_a_wrong_one_is_told(page):
    line = page.find(U + "_weight_curve textarea")
    page.run("arguments[0].value = '3@0, 0@1'", line)  # no event, as when the server sets a value
    page.until(lambda: len(page.all(U + "_curve_editor .cnet-curve-point")) == 2, "the curve")
    page.run("arguments[0].value = '3@0 and so on'", line)
    page.until(lambda: "no curve" in page.find(U + "_curve_editor .cnet-wrong").text, "the sentence")


def test_a_pose_is_edited_and_sent(page):
    from selenium.webdriver.common.keys import Keys

    page.click(U + "_pose_edit")
    nose = '.cnet-pose-point[data-part="body"][data-point="0"]'
    before = page.find(nose).rect
    drag(page, page.find(nose), 30, 12)
    after = page.find(nose).rect
    assert (after["x"] - before["x"], after["y"] - before["y"]) == pytest.approx((30, 12), abs=1.5)
    press(page, "z", held=[Keys.CONTROL])
    assert page.find(nose).rect["x"] == pytest.approx(before["x"], abs=0.5)
    press(page, "y", held=[Keys.CONTROL])
    assert page.find(nose).rect["x"] == pytest.approx(after["x"], abs=0.5)
    page.click(".cnet-pose-card .cnet-check", "Left hand")
    press(page, Keys.DELETE)  # the nose is still selected
    page.click(".cnet-modal button", "+ Add a person")
    page.click(".cnet-modal button", "Send to the unit")
    pressed(page, U[1:] + "_pose_render")
    sent = pose.parse(json.loads(page.value(U + "_pose_json")))
    assert (sent.width, sent.height) == (640, 480)  # what the tab makes
    first, second = sent.people
    assert first.body[0, 2] == 0
    assert (first.body[1:, 2] == 1).all()
    assert (first.left_hand.shape, first.right_hand.shape) == ((21, 3), (0, 3))
    assert (second.body[:, 2] == 1).all()
    assert not page.find(".cnet-modal").is_displayed()


def test_the_editor_shows_what_the_network_will_see(page):
    """The drawing is that of pose.draw, but for edges: SVG is antialiased, OpenCV is not."""
    body = np.array(
        [[240, 60], [240, 120], [180, 120], [150, 200], [130, 280], [300, 125], [330, 210], [350, 290]]
    )
    legs = np.array([[205, 290], [200, 370], [190, 450], [275, 290], [285, 370], [280, 450]])
    head = np.array([[228, 50], [252, 50], [212, 58], [268, 58]])
    points = np.vstack([body, legs, head])
    hand = [[350 + 9 * (i % 5), 300 + 15 * (i // 5) + 3 * (i % 5), 1] for i in range(21)]
    value = {
        "people": [
            {
                "pose_keypoints_2d": np.hstack([points, np.ones((18, 1))]).ravel().tolist(),
                "hand_left_keypoints_2d": np.ravel(hand).tolist(),
                "face_keypoints_2d": [230, 70, 1, 240, 80, 1, 250, 70, 1, 300, 90, 0],
            }
        ],
        "canvas_width": 480,
        "canvas_height": 480,
    }
    page.fill(U + "_pose_json", json.dumps(value))
    page.click(U + "_pose_edit")
    page.find(".cnet-pose-person")
    page.run(  # one px of the canvas is one of the screen
        "const svg = document.querySelector('.cnet-pose-stage'); svg.setAttribute('viewBox', '0 0 480 480');"
        "svg.style.cssText = 'position: fixed; inset: 0 auto auto 0; width: 480px; height: 480px; border: 0;"
        "border-radius: 0';"
        "document.querySelector('.cnet-modal').append(svg);"
    )
    shot = Image.open(io.BytesIO(page.find(".cnet-pose-stage").screenshot_as_png)).convert("RGB")
    seen, expected = np.asarray(shot).astype(np.int16), pose.draw(pose.parse(value)).astype(np.int16)
    assert seen.shape == expected.shape
    difference = np.abs(seen - expected).max(2)
    block = np.ones((5, 5), np.uint8)
    flat = (cv2.dilate(expected, block) - cv2.erode(expected, block)).max(2) == 0
    drawn = expected.max(2) > 0
    assert (difference[flat] > 60).mean() < 0.001
    assert (difference[flat & drawn] > 60).mean() < 0.02
    assert (flat & drawn).sum() > 2000


def test_the_unit_s_picture_lies_behind(page, tmp_path):
    Image.new("RGB", (300, 200), "red").save(tmp_path / "picture.png")
    place = page.find(U + "_input_image")
    page.run("arguments[0].append(document.createElement('canvas'))", place)  # as newer gradios show it
    page.find(U + "_input_image input[type=file]").send_keys(str(tmp_path / "picture.png"))
    page.click(U + "_pose_edit")
    assert page.find(".cnet-modal input[type=number]").get_attribute("value") == "300"
    picture = page.find(".cnet-pose-picture")
    assert picture.get_attribute("href").startswith("blob:")
    page.until(lambda: picture.rect["width"] > 300, "the picture")


def test_escape_closes_the_editor_without_sending_and_keeps_what_was_done(page):
    from selenium.webdriver.common.keys import Keys

    page.run("document.addEventListener('keydown', (event) => window.pressed.push(event.key))")
    page.click(U + "_pose_edit")
    page.click(".cnet-modal button", "+ Add a person")
    press(page, Keys.ESCAPE)
    page.until(lambda: not page.find(".cnet-modal").is_displayed(), "the editor closed")
    assert page.value(U + "_pose_json") == ""
    assert "Escape" not in page.run("return window.pressed")  # A1111 would interrupt its job
    page.click(U + "_pose_edit")
    assert len(page.all(".cnet-pose-card")) == 2


def test_a_pose_is_imported_and_a_wrong_file_is_told(page, tmp_path):
    (tmp_path / "wrong.json").write_text('{"people": "many"}')
    page.click(U + "_pose_edit")
    chooser = page.find(".cnet-modal input[type=file]")
    chooser.send_keys(str(tmp_path / "wrong.json"))
    page.until(lambda: "neither people nor animals" in page.find(".cnet-modal").text, "the sentence")
    animal = {"animals": [[20, 30, 1] * 17], "people": [], "canvas_width": 64, "canvas_height": 96}
    (tmp_path / "pose.json").write_text(json.dumps(animal))
    chooser.send_keys(str(tmp_path / "pose.json"))
    page.until(lambda: "1 animals" in page.find(".cnet-modal").text, "the animal")
    page.click(".cnet-modal button", "Send to the unit")
    assert json.loads(page.value(U + "_pose_json")) == {**animal, "animals": [[20, 30, 1] * 17]}


def typed(tab):
    """The control type beside a tab's name."""
    return tab.find_element("css selector", ".cnet-unit-type").get_attribute("data-cnet-type")


def test_a_unit_that_gets_a_picture_is_on_and_says_so(page, tmp_path):
    Image.new("RGB", (77, 92)).save(tmp_path / "picture.png")
    tab = page.find("#txt2img_controlnet_tabs .tab-nav button")
    page.find(U + "_input_image input[type=file]").send_keys(str(tmp_path / "picture.png"))
    page.until(lambda: "cnet-unit-active" in tab.get_attribute("class"), "the tab's colour")
    assert page.is_checked(U + "_controlnet_enable_checkbox")
    assert page.find(".cnet-badge").text == "[1 unit]"
    page.click(U + "_controlnet_type_filter_radio label", "Canny")
    page.until(lambda: typed(tab) == "Canny", "the type")
    page.check(OTHER + "_controlnet_enable_checkbox")
    page.until(lambda: page.find(".cnet-badge").text == "[2 units]", "the badge")
    for unit in (U, OTHER):
        page.check(unit + "_controlnet_enable_checkbox", False)
    page.until(lambda: not page.all(".cnet-badge"), "no badge")


def test_a_unit_that_gradio_has_not_made_yet_counts_by_the_servers_word(page):
    told = [{"on": True, "type": "Depth"}, {"on": False, "type": "All"}, {"on": True, "type": "Canny"}]
    page.fill("#txt2img_controlnet_units", json.dumps(told))
    first, _, third = page.all("#txt2img_controlnet_tabs .tab-nav button")
    page.until(lambda: typed(third) == "Canny", "the type")
    assert "cnet-unit-active" in third.get_attribute("class")
    assert "cnet-unit-active" not in first.get_attribute("class"), "what the page shows of a unit counts"
    assert page.find(".cnet-badge").text == "[1 unit]"
    page.fill("#txt2img_controlnet_units", json.dumps([]))
    page.until(lambda: not page.all(".cnet-badge"), "no badge")


def test_another_checkpoint_has_the_server_asked_while_the_panel_is_open(page):
    asked = "return window.pressed.filter((id) => id === 'txt2img_controlnet_follow').length"
    page.open_accordion("#txt2img_controlnet_accordion")
    page.until(lambda: page.run(asked) == 1, "asked when the panel opens")
    page.fill("#setting_sd_model_checkpoint", "other.safetensors")
    page.until(lambda: page.run(asked) == 2, "asked for the other checkpoint")
    page.click("#txt2img_controlnet_accordion .label-wrap")
    page.fill("#setting_sd_model_checkpoint", "one.safetensors")
    time.sleep(1)  # two heartbeats
    assert page.run(asked) == 2


def test_rows_send_commands(page):
    from selenium.webdriver.common.keys import Keys

    page.click("#txt2img_controlnet_overview button", "Mute")
    assert commands(page) == {"do": "mute", "unit": 0}
    pressed(page, "txt2img_controlnet_command_run")
    first, second = page.all(".cnet-row")
    page.run("arguments[0].focus()", first)
    press(page, Keys.ARROW_DOWN)
    assert page.run("return document.activeElement === arguments[0]", second)
    press(page, Keys.ARROW_UP, held=[Keys.ALT])
    assert commands(page) == {"do": "up", "unit": 1}
    press(page, Keys.DELETE)
    assert commands(page) == {"do": "remove", "unit": 1}


def test_a_row_is_dragged_past_another(page):
    """By one place, and by the next one once the server has drawn the rows anew."""
    overview = page.find("#txt2img_controlnet_overview")
    page.run(
        """arguments[0].insertAdjacentHTML('beforeend', '<div class="cnet-row" data-unit="2">2</div>')""",
        overview,
    )
    first, _, third = page.all(".cnet-row")
    page.until(lambda: third.get_attribute("draggable") == "true", "rows to drag")
    drag(page, first, 0, third.rect["y"] - first.rect["y"] + 2)
    assert commands(page) == {"do": "down", "unit": 0}
    page.run("arguments[0].prepend(arguments[0].children[1])", overview)
    page.until(lambda: commands(page) == {"do": "down", "unit": 1}, "the second step")


def test_a_mistake_comes_to_its_unit_until_the_next_generate(page):
    said = "The model is missing. Put it there."
    log = page.find("#html_log_txt2img .prose")
    page.click("#txt2img_generate")
    page.run(
        f"arguments[0].innerHTML = '<div class=\"error\">ControlError: ControlNet unit 1: {said}</div>'", log
    )
    assert page.find(f"{OTHER}_mistake .cnet-mistake-sent").get_attribute("textContent") == said
    assert page.all(f"{U}_mistake .cnet-mistake-sent") == []
    page.click(".cnet-mistakes button", f"Unit 1: {said}")
    pressed(page, "ControlNet Unit 1")
    page.click("#txt2img_generate")
    page.until(lambda: not page.all(".cnet-mistake-sent"), "the sentence gone")
    # A host that fails again in the same words changes no node; its Interrupt button tells that it is over.
    assert page.find(f"{OTHER}_mistake .cnet-mistake-sent").get_attribute("textContent") == said


def test_a_notice_in_the_corner_is_read_as_well(page):
    page.click("#txt2img_generate")
    toast = '<div class="toast-body error"><div class="toast-text">{}</div></div>'
    said = "ControlNet unit 0: The weight is 9. Stay within 0 and 2."
    page.run("document.body.insertAdjacentHTML('beforeend', arguments[0])", toast.format(said))
    assert page.find(f"{U}_mistake .cnet-mistake-sent").text == "The weight is 9. Stay within 0 and 2."


def test_what_will_be_sent_is_copied(page):
    from selenium.webdriver.common.keys import Keys

    copy = page.find(U + "_sent_json .cnet-copy")
    page.run("arguments[0].scrollIntoView({block: 'center'})", copy)
    copy.click()  # by a hand: scripts may not write into the clipboard
    page.until(lambda: page.find(U + "_sent_json .cnet-copy").text == "Copied", "the thanks")
    page.run("arguments[0].focus()", page.find(U + "_weight_curve textarea"))
    press(page, "v", held=[Keys.CONTROL])
    page.until(lambda: page.value(U + "_weight_curve") == '{"module": "canny"}', "the pasted text")


def test_an_open_panel_is_open_next_time(page):
    def is_open():
        return "open" in page.find(".label-wrap").get_attribute("class")

    for _ in range(2):  # from open to closed and back, whatever the test before left
        wanted = not is_open()
        page.click(".label-wrap")
        stored = "return localStorage['controlstack.txt2img.open']"
        page.until(lambda: page.run(stored) == str(wanted).lower(), "it remembered")  # noqa: B023
        page.driver.refresh()
        page.until(lambda: is_open() == wanted, "the panel as it was")  # noqa: B023


def test_the_host_s_language(page):
    chinese = json.loads((ROOT / "localizations/zh_CN.json").read_text("utf-8"))
    page.run("window.localization = arguments[0]", chinese)
    page.click(U + "_pose_edit")
    assert page.find(".cnet-primary").text == "发送到单元"
    assert page.find(".cnet-chip").text == "鼻子"


CONTRAST = """
const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const weights = [0.2126, 0.7152, 0.0722];
const luminance = (rgb) => weights.reduce((sum, weight, nth) => sum + weight * linear(rgb[nth] / 255), 0);
const read = (colour) => colour.match(/[0-9.]+/g).map(Number);
const ground = (node) => {
    const colour = read(getComputedStyle(node).backgroundColor);
    return colour[3] === 0 && node.parentElement ? ground(node.parentElement) : colour;
};
return [...document.querySelectorAll(arguments[0])].map((node) => {
    const both = [read(getComputedStyle(node).color), ground(node)].map(luminance).sort((a, b) => a - b);
    return (both[1] + 0.05) / (both[0] + 0.05);
});
"""
"""The contrast of each of these texts with what is behind it, as WCAG 2 measures it."""


@pytest.mark.parametrize("theme", ["", "dark"])
def test_texts_can_be_read_in_both_themes(page, theme):
    """WCAG 2 asks for a contrast of 4.5 (AA)."""
    page.run("document.body.className = arguments[0]", theme)
    page.check(U + "_controlnet_enable_checkbox")
    page.click("#txt2img_generate")
    error = '<div class="error">ControlNet unit 0: It is wrong.</div>'
    page.run("arguments[0].innerHTML = arguments[1]", page.find("#html_log_txt2img .prose"), error)
    page.fill(U + "_weight_curve", "many")
    texts = (".cnet-badge", ".cnet-mistake-sent", ".cnet-wrong", ".cnet-curve-editor button")
    for what in texts:
        page.find(what)
        assert min(page.run(CONTRAST, what)) >= 4.5, what


def test_a_narrow_screen_holds_everything(page):
    screen = {"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        page.click(U + "_pose_edit")
        page.shown(".cnet-modal")
        ends = (
            "const all = [...document.querySelectorAll(arguments[0])];"
            "return all.map((one) => one.getBoundingClientRect().right)"
        )
        for what in (".cnet-row", ".cnet-curve-plot", ".cnet-curve-editor button", ".cnet-modal button"):
            found = page.run(ends, what)
            assert found, what
            assert max(found) <= screen["width"], what
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
