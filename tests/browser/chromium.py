"""Chromium without a window, and a page in it as a person uses it: by ids, with patience."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

Found = TypeVar("Found")

QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE = 300
"""Seconds that anything may take on a busy machine."""
_MOVE = 60
"""ms that the pointer takes from one point to the next"""

ENTRY = "ul[role=listbox] [role=option], ul.options li.item"
"""An entry of the dropdown that is open."""

FEW_FRAMES = """
const paint = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (next) => setTimeout(() => paint(next), 100);
window.cancelAnimationFrame = (frame) => clearTimeout(frame);
"""
"""A slow screen. Gradio 4 and later paint their canvases at each frame, here without a graphics card."""

A_COPY = "return Boolean(arguments[0].closest('[aria-hidden=true], .visually-hidden'))"
"""Whether an element is one that gradio measures widths with."""

SET_VALUE = """
const [field, value] = arguments;
const kind = field.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(field, value);
for (const name of ["input", "change", "blur"]) field.dispatchEvent(new Event(name, {bubbles: true}));
"""
"""As typing does it: gradio listens to the events, and a plain assignment passes by its bookkeeping."""


@contextmanager
def browser(profile: Path, size: tuple[int, int] = (1400, 1600), *, dark: bool = False) -> Iterator[Chrome]:
    """A browser with an empty profile; a test that wants one is skipped where there is none."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if not (driver and chromium):
        pytest.skip("there is no Chromium with its ChromeDriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    scheme = ("--force-dark-mode",) if dark else ()
    for argument in (*QUIET, *scheme, f"--user-data-dir={profile}", "--window-size={},{}".format(*size)):
        options.add_argument(argument)
    running = webdriver.Chrome(options, webdriver.ChromeService(driver))
    running.command_executor.client_config.timeout = PATIENCE
    _slow(running)
    try:
        yield running
    finally:
        running.quit()


def _slow(driver: Chrome) -> None:
    """Have the tab's pages paint few frames."""
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": FEW_FRAMES})


class Page:
    """A page in a browser. Whatever is asked for is waited for."""

    def __init__(self, driver: Chrome, address: str) -> None:
        self.driver, self.address = driver, address

    def open(self, path: str = "/", ready: str = "#txt2img_generate") -> None:
        self.driver.get(self.address + path)
        self.find(ready)

    def anew(self) -> None:
        """Leave everything behind for an empty tab. A reload would wait for the old page's canvases, which no
        graphics card paints here."""
        left = self.driver.window_handles
        self.driver.switch_to.new_window("tab")
        empty = self.driver.current_window_handle
        for handle in left:
            self.driver.switch_to.window(handle)
            self.driver.close()
        self.driver.switch_to.window(empty)
        _slow(self.driver)
        stored = {"origin": self.address, "storageTypes": "local_storage"}
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", stored)

    def until(self, condition: Callable[[], Found], what: str = "", seconds: float = PATIENCE) -> Found:
        """What the condition returns, once that is true."""
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + seconds
        last: object = None
        while time.monotonic() < end:
            try:
                if found := condition():
                    return found
            except WebDriverException as error:
                last = error  # an element was drawn anew meanwhile
            time.sleep(0.05)
        raise AssertionError(f"not seen within {seconds} s: {what or condition}; {last or ''}")

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", selector)

    def find(self, selector: str) -> WebElement:
        return self.until(lambda: self.all(selector), selector)[0]

    def shown(self, selector: str) -> WebElement:
        """The first element of these that can be seen."""
        return self.until(
            lambda: next((one for one in self.all(selector) if one.is_displayed()), None), f"{selector} shown"
        )

    def click(self, selector: str, text: str = "") -> None:
        """Click the first visible element of these, with this text if one is given."""
        self.until(lambda: self._clicked(selector, text), f"{selector} {text!r} to click")

    def _clicked(self, selector: str, text: str) -> bool:
        for one in self.all(selector):
            if one.is_displayed() and (not text or one.text.strip() == text) and not self.run(A_COPY, one):
                self.run("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", one)
                return True
        return False

    def run(self, code: str, *args: object) -> Any:
        """What a line of JavaScript returns."""
        return self.driver.execute_script(code, *args)

    def fill(self, selector: str, value: object) -> None:
        """Put a value into the field in here."""
        field = self.find(f"{selector} textarea, {selector} input[type=number], {selector} input[type=text]")
        self.run(SET_VALUE, field, str(value))

    def value(self, selector: str) -> str:
        """What stands in the field in here."""
        inside = f"{selector} textarea, {selector} input[type=number], {selector} input:not([type=file])"
        return str(self.run("return arguments[0].value", self.find(inside)))

    def is_checked(self, selector: str) -> bool:
        return bool(self.run("return arguments[0].checked", self.find(f"{selector} input[type=checkbox]")))

    def check(self, selector: str, wanted: bool = True) -> None:
        if self.is_checked(selector) != wanted:
            box = self.find(f"{selector} input[type=checkbox]")
            self.run("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", box)

    def choose(self, selector: str, text: str) -> None:
        """Take an entry of a dropdown."""
        box = self.shown(f"{selector} input:not([type=hidden])")
        self.run("arguments[0].scrollIntoView({block: 'center'})", box)
        box.click()
        self.until(lambda: self._taken(text), f"entry {text!r} of {selector}")

    def _taken(self, text: str) -> bool:
        for entry in self.all(ENTRY):
            if _said(entry) == text:
                press = "arguments[0].dispatchEvent(new MouseEvent('mousedown', {bubbles: true}))"
                self.run(press, entry)
                return True
        return False

    def entries(self, selector: str) -> list[str]:
        """The entries that a dropdown offers."""
        box = self.shown(f"{selector} input:not([type=hidden])")
        box.click()
        texts = self.until(lambda: [_said(entry) for entry in self.all(ENTRY)], f"entries of {selector}")
        self.run("arguments[0].blur()", box)
        return texts

    def upload(self, selector: str, file: Path) -> None:
        """Hand a file to the upload in here."""
        self.find(f"{selector} input[type=file]").send_keys(str(file))

    @property
    def gradio(self) -> int:
        """The page's gradio: 3, 4, …"""
        return int(self.run("return window.gradio_config.version").partition(".")[0])

    def upload_to_canvas(self, selector: str, file: Path) -> None:
        """Hand a picture to the place in here where one can brush over it, if the gradio has that."""
        if self.gradio > 4:  # makes its canvas once it is seen, and what comes before is lost
            self.shown(f"{selector} canvas")
            time.sleep(0.5)
        self.upload(selector, file)
        self.until(lambda: self.all(f"{selector} canvas, {selector} img"), f"the picture in {selector}")

    def brush(self, selector: str, points: Sequence[tuple[float, float]]) -> None:
        """A stroke of the pointer over the canvas in here, through points (shares of its sides)."""
        from selenium.webdriver import ActionChains

        canvas = self.shown(f"{selector} canvas")
        self.run("arguments[0].scrollIntoView({block: 'center'})", canvas)
        box = canvas.rect
        hand = ActionChains(self.driver, duration=_MOVE)
        for nth, (across, down) in enumerate(points):
            at = round((across - 0.5) * box["width"]), round((down - 0.5) * box["height"])
            hand.move_to_element_with_offset(canvas, *at)
            if nth == 0:
                hand.click_and_hold()
        hand.release().perform()

    def press(self, selector: str, key: str) -> None:
        """Press a key, named as in JavaScript, while the focus is on this."""
        from selenium.webdriver import ActionChains, Keys

        self.run("arguments[0].focus()", self.shown(selector))
        ActionChains(self.driver).send_keys(getattr(Keys, key.upper())).perform()

    def tab(self, title: str, within: str = "#tabs") -> None:
        self.click(f"{within} button", title)

    def open_accordion(self, selector: str) -> None:
        """Open the accordion with this id, if it is closed."""
        label = self.find(f"{selector} .label-wrap")
        if "open" not in label.get_attribute("class").split():
            self.run("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", label)

    def picture(self, selector: str) -> str:
        """The address of the picture in here, once it is drawn."""
        ready = (
            "const seen = document.querySelector(arguments[0] + ' img');"
            "return seen && seen.complete && seen.naturalWidth > 0 && seen.src"
        )
        return str(self.until(lambda: self.run(ready, selector), f"{selector} img"))

    def size(self, selector: str) -> tuple[int, int]:
        """Width and height of the picture in here (px)."""
        self.picture(selector)
        sizes = "const seen = document.querySelector(arguments[0] + ' img');"
        width, height = self.run(sizes + "return [seen.naturalWidth, seen.naturalHeight]", selector)
        return width, height

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def says(self, text: str, selector: str = "body") -> None:
        """Wait until this can be read in here."""
        self.until(lambda: text in self.find(selector).text, f"{text!r} in {selector}")

    def requests(self) -> list[str]:
        """Every address asked for since this was last called, from the browser's network log."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        kinds = {"Network.requestWillBeSent": ("request", "url"), "Network.webSocketCreated": ("url",)}
        found = []
        for message in messages:
            value = message["params"]
            for key in kinds.get(message["method"], ()):
                value = value[key]
            if message["method"] in kinds:
                found.append(value)
        return found

    def strangers(self, requests: Sequence[str] | None = None) -> set[str]:
        """The other hosts among these requests, or else among those since `requests` was last called."""
        own = urlsplit(self.address)
        split = [urlsplit(url) for url in (self.requests() if requests is None else requests)]
        asked = [url for url in split if url.scheme not in ("data", "blob", "chrome")]
        return {url.netloc for url in asked if (url.hostname, url.port) != (own.hostname, own.port)}

    def complaints(self) -> list[str]:
        """Errors on the browser's console since this was last called."""
        return [log["message"] for log in self.driver.get_log("browser") if log["level"] == "SEVERE"]

    def save(self, file: Path) -> None:
        """A picture of the window."""
        self.driver.save_screenshot(str(file))


def _said(entry: WebElement) -> str:
    """A dropdown's entry without its tick."""
    return (entry.get_attribute("textContent") or "").replace("✓", "").strip()
