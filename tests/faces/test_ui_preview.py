"""The preview shows what the network will get; the small buttons of a unit."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from panel_host import SD1, PanelHost

from controlstack import image, plan, pose
from controlstack.faces.ui import preview, values
from controlstack.faces.ui.fields import FIELDS
from controlstack.faces.ui.stock import Stock
from controlstack.session import Session
from controlstack.sources import Job
from controlstack.unit import ResizeMode, parse

AT_REST = {field.name: field.default for field in FIELDS} | {"independent": True}
PICTURE = np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8).repeat(2, 0).repeat(2, 1)


@pytest.fixture
def stock(tmp_path: Path) -> Stock:
    return Stock(PanelHost(tmp_path))


def last(page: dict[str, Any], stock: Stock, size: tuple[int, int] | None) -> preview.Shown:
    *_, shown = preview.run({**AT_REST, **page}, stock, size)
    assert shown.done
    return shown


@pytest.mark.parametrize("mode", [mode.value for mode in ResizeMode])
@pytest.mark.parametrize("pixel_perfect", [True, False])
def test_it_is_the_map_of_the_job(stock: Stock, mode: str, pixel_perfect: bool) -> None:
    """recolor acts without a model, so a session can be begun without a UNet."""
    page = {
        "module": "recolor_luminance",
        "picture": PICTURE,
        "resize_mode": mode,
        "pixel_perfect": pixel_perfect,
        "processor_res": 128,
        "enabled": True,
        "threshold_a": 1.2,
    }
    shown = last(page, stock, (128, 96))
    unit = parse(values.unit({**AT_REST, **page}))
    session = Session(stock.host.models, stock.host.cache)
    session.plans = [plan.resolve(0, unit, Job(128, 96, SD1), stock.host.catalog)]
    session.prepare()
    session.begin(128, 96, None, hires=False)  # type: ignore[arg-type]
    assert shown.map is not None
    assert np.array_equal(shown.map, image.shown(session.maps(0)[0]))
    assert f"128×96, after {mode}" in shown.status


def test_canny_at_the_size_of_the_page_is_opencvs(stock: Stock) -> None:
    page = {"module": "canny", "picture": PICTURE, "processor_res": 96, "threshold_a": 50, "threshold_b": 150}
    shown = last(page, stock, (160, 96))
    assert shown.map is not None
    assert np.array_equal(shown.map[..., 0], cv2.Canny(PICTURE, 50, 150))
    assert shown.pose == ""


def test_where_the_page_tells_no_size_the_map_stays_as_it_is(stock: Stock) -> None:
    shown = last({"module": "canny", "picture": PICTURE, "processor_res": 192}, stock, None)
    assert shown.map is not None
    assert shown.map.shape == (192, 320, 3)
    assert "the page does not tell its size" in shown.status


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ({"module": "canny"}, "There is no picture"),
        ({"module": "no such", "picture": PICTURE}, "There is no preprocessor called 'no such'"),
        ({"module": "canny", "picture": PICTURE, "input_mode": "batch"}, "A batch has no preview"),
        ({"module": "ip-adapter-auto", "picture": PICTURE}, "stands for the one that a model asks for"),
        ({"module": "canny", "picture": PICTURE, "weight_curve": "up"}, "weight curve 'up' cannot be read"),
    ],
)
def test_a_mistake_is_told_in_place_of_a_map(stock: Stock, page: dict[str, Any], said: str) -> None:
    shown = last(page, stock, (128, 96))
    assert shown.map is None
    assert said in shown.mistake


def test_it_waits_for_the_job_that_runs(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "LOOK_EVERY", 0.02)
    stock.host.lock.acquire()  # type: ignore[attr-defined]  # an RLock of this thread; the run is in another
    running = preview.run({**AT_REST, "module": "canny", "picture": PICTURE}, stock, None)
    said = [next(running).status for _ in range(5)]
    assert "Waiting until the computer is free" in said[-1]
    stock.host.lock.release()  # type: ignore[attr-defined]
    *_, shown = running
    assert shown.map is not None


def _person() -> dict[str, Any]:
    points = [[20.0 + 3 * n, 10.0 + 4 * n, 1.0] for n in range(18)]
    return {
        "people": [{"pose_keypoints_2d": points}],
        "canvas_width": 96,
        "canvas_height": 96,
    }


@pytest.mark.parametrize("wrap", [lambda person: person, lambda person: [person]])
def test_a_pose_is_drawn_at_the_size_of_the_page(wrap: Any) -> None:
    shown = preview.drawn(json.dumps(wrap(_person())), {**AT_REST, "resize_mode": "Just Resize"}, (96, 96))
    assert shown.map is not None
    assert np.array_equal(shown.map, pose.draw(pose.parse(_person())))
    back = json.loads(shown.pose)
    assert np.array_equal(pose.draw(pose.parse(back)), shown.map)
    link = preview.download(shown.pose)
    assert json.loads(base64.b64decode(link.partition("base64,")[2].partition('"')[0])) == back


@pytest.mark.parametrize("text", ["", "{", "[]", '{"people": 1}', "7", '"text"'])
def test_what_is_no_pose_is_told(text: str) -> None:
    shown = preview.drawn(text, AT_REST, (96, 96))
    assert shown.map is None
    assert shown.mistake


@pytest.mark.parametrize(("side", "sent"), [(512, 512), (516, 512), (517, 520), (7, 8), (1, 8)])
def test_dimensions_are_sent_in_whole_latent_cells(side: int, sent: int) -> None:
    """Ties go down: sd-webui-controlnet's button, in the notes on its page."""
    pytest.importorskip("gradio")
    from controlstack.faces.ui import tools

    assert tools.nearest(side) == sent


def test_a_download_says_how_far_it_is(stock: Stock, tmp_path: Path) -> None:
    """The hub keeps what has come so far in a file that ends with .incomplete."""
    from controlstack.downloads import PARTIAL, File, Store
    from controlstack.preprocess import Preprocessor

    file = File("owner/name", "folder/net.safetensors", "weights", "MIT", size=40_000_000)
    stock.host.cache.networks.store = Store([tmp_path])
    partial = tmp_path / PARTIAL / file.name / "blobs"
    partial.mkdir(parents=True)
    asked = preview._Asked(AT_REST, stock, None)
    asked.preprocessor = Preprocessor("slow", lambda picture, ask: picture, "Slow", files=(file,))
    asked.has_lock = True
    assert asked.progress(3.2) == "Slow is running, 3 s…"
    (partial / "0123.incomplete").write_bytes(bytes(12_000_000))
    assert asked.progress(3.2) == "Downloading net.safetensors: 12 of 40 MB…"


@pytest.mark.parametrize("mask", [None, np.eye(3, 4, dtype=np.uint8) * 255])
def test_a_mirrored_picture_takes_its_mask_along(mask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    from controlstack.faces.ui import compat, pictures, tools

    monkeypatch.setattr(compat, "canvas_value", compat.editor_value)  # as gradio 6 has it
    picture = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    found = pictures.drawn(tools._mirrored({"image": picture, "mask": mask}))
    assert found is not None
    assert np.array_equal(found.rgb, picture[:, ::-1])
    assert found.mask is None if mask is None else np.array_equal(found.mask, mask[:, ::-1])


def test_what_is_drawn_on_the_shared_canvas_goes_to_its_unit() -> None:
    pytest.importorskip("gradio")
    from controlstack.faces.ui import compat, drawing

    mask = np.eye(3, 4, dtype=np.uint8) * 255
    drawn = compat.editor_value(np.zeros((3, 4, 3), np.uint8), mask)
    hidden, *given = drawing._taken(3, True)(1, drawn)
    assert hidden["visible"] is False
    assert np.array_equal(values.pictures.region(given[2]), mask)
    assert given[3] is True
    assert all("value" not in update for update in (given[0], given[1], given[4], given[5]))
