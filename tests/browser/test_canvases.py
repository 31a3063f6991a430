"""Canvases that nobody can see are not painted: a page with what gradio puts there for its picture editor."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import Page, browser

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.browser

EDITOR = """<!doctype html>
<div id="tab"><div class="stage-wrap"><canvas width="8" height="8"></canvas></div></div>
<script>
  const canvas = document.querySelector("canvas");
  const gl = canvas.getContext("webgl2", { preserveDrawingBuffer: true });
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 8, 8, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
  const offScreen = gl.createFramebuffer();
  gl.bindFramebuffer(gl.FRAMEBUFFER, offScreen);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  gl.bindFramebuffer(gl.FRAMEBUFFER, null);

  /** Fill a framebuffer, null for the screen, with this red; the red that it then has. */
  function painted(buffer, red) {
    gl.bindFramebuffer(gl.FRAMEBUFFER, buffer);
    gl.clearColor(red / 255, 0, 0, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const pixel = new Uint8Array(4);
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
    return pixel[0];
  }
</script>
"""


@pytest.fixture
def page(tmp_path):
    files = [(ROOT / "javascript" / name).as_uri() for name in ("page.js", "canvases.js")]
    scripts = [f'<script src="{file}"></script>' for file in files]
    (tmp_path / "editor.html").write_text(EDITOR + "\n".join(scripts), "utf-8")
    with browser(tmp_path / "profile", (600, 400)) as driver:
        found = Page(driver, tmp_path.as_uri())
        found.open("/editor.html", "canvas")
        if not found.run("return Boolean(gl)"):
            pytest.skip("this Chromium has no WebGL")
        yield found


def test_a_canvas_is_painted_while_it_can_be_seen_and_read_back_always(page):
    screen = "return painted(null, arguments[0])"
    assert page.run(screen, 10) == 10
    shown = "document.querySelector('#tab').style.display = arguments[0]"
    page.run(shown, "none")
    page.until(lambda: page.run(screen, 20) == page.run(screen, 21), "nothing is painted any more")
    assert page.run("return painted(offScreen, 30)") == 30
    page.run(shown, "block")
    page.until(lambda: page.run(screen, 40) == 40, "it is painted again")
    page.run("document.querySelector('#tab').style.marginTop = '9000px'")  # scrolled away
    page.until(lambda: page.run(screen, 50) == page.run(screen, 51), "nothing is painted below the window")
