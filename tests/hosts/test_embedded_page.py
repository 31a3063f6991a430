"""The embedded host's page: what it shows, and the whole way from Generate to a picture."""

from __future__ import annotations

import shutil

import httpx
import numpy as np
import pytest
from embedded_server import HERE, Failed, encoded, running
from PIL import Image
from test_embedded_server import disc, photograph

LOGIN = "ann:secret"
gradio_client = pytest.importorskip("gradio_client", "1.0", reason="gradio 3's client cannot sign in")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    data = tmp_path_factory.mktemp("host")
    folder = data / "extensions/selectable"
    (folder / "scripts").mkdir(parents=True)
    (folder / "javascript").mkdir()
    (folder / "javascript/a.js").write_text("window.selectableWasHere = 6 * 7;")
    (folder / "style.css").write_text("body { --selectable: yes; }")
    shutil.copy(HERE / "selectable_script.py", folder / "scripts")
    with running(data, page=True, login=LOGIN) as client:
        yield client


@pytest.fixture(scope="module")
def client(host, tmp_path_factory):
    return gradio_client.Client(
        host.address,
        headers={"Authorization": host.headers["Authorization"]},
        download_files=tmp_path_factory.mktemp("pictures"),
        verbose=False,
    )


SMALL = {"prompt": "a cat", "negative_prompt": "blurry", "seed": 5, "steps": 3, "width": 64, "height": 96}


def paint(client, tab, **fields):
    """The pictures, the comments and the infotext that the page shows at the end."""
    named = {parameter["label"]: parameter["parameter_name"] for parameter in parameters(client, tab)}
    labels = {
        "prompt": "Prompt",
        "negative_prompt": "Negative prompt",
        "seed": "Seed (-1 is random)",
        "steps": "Steps",
        "width": "Width",
        "height": "Height",
        "batch_size": "Batch size",
        "script": "Script",
        "init": "Picture; brush over what to repaint",
    }
    asked = {named[labels[name]]: value for name, value in {**SMALL, **fields}.items()}
    pictures = {
        told["parameter_name"] for told in parameters(client, tab) if not told["parameter_has_default"]
    }
    asked = dict.fromkeys(pictures) | asked
    gallery, _maps, _live, infotext, comments = client.predict(**asked, api_name=f"/{tab}")
    pictures = [np.asarray(Image.open(entry["image"]).convert("RGB")).astype(int) for entry in gallery]
    return pictures, comments, infotext


def parameters(client, tab):
    return client.view_api(return_format="dict", print_info=False)["named_endpoints"][f"/{tab}"]["parameters"]


def test_a_picture_is_that_of_the_api_and_is_saved(host, client):
    (picture, second), comments, infotext = paint(client, "txt2img", batch_size=2)
    expected = host.txt2img(batch_size=2)
    assert np.array_equal(picture, expected.arrays[0])
    assert np.array_equal(second, expected.arrays[1])
    assert infotext.startswith("a cat\nNegative prompt: blurry\nSteps: 3, Sampler: Euler")
    assert comments == ""
    saved = sorted((host.data / "outputs").glob("*.png"))
    assert Image.open(saved[-1]).info["parameters"].endswith(infotext.split("Seed: 5")[1])


def test_img2img_and_what_the_brush_masks(host, client, tmp_path):
    photograph().save(tmp_path / "photograph.png")
    brushed = Image.new("RGBA", (64, 96))
    brushed.paste((255, 255, 255, 200), mask=disc())
    brushed.save(tmp_path / "layer.png")
    background = gradio_client.handle_file(tmp_path / "photograph.png")
    plain = {"background": background, "layers": [], "composite": None}
    (whole,), _, _ = paint(client, "img2img", init=plain)
    assert np.array_equal(whole, host.img2img(photograph()).arrays[0])
    drawn = {**plain, "layers": [gradio_client.handle_file(tmp_path / "layer.png")]}
    (painted,), _, _ = paint(client, "img2img", init=drawn)
    asked = {"mask": encoded(disc()), "inpaint_full_res": False, "inpainting_fill": 1, "mask_blur": 4}
    assert np.array_equal(painted, host.img2img(photograph(), **asked).arrays[0])


def test_a_selected_script_runs(host, client):
    (first, second), _, _ = paint(client, "txt2img", script="Two prompts")
    assert np.array_equal(second, host.txt2img(script_name="two prompts").arrays[1])
    assert np.array_equal(first, host.txt2img(script_name="two prompts").arrays[0])


def test_a_mistake_is_shown_in_its_own_words(client):
    with pytest.raises(gradio_client.exceptions.AppError, match="There is no picture to start from"):
        paint(client, "img2img")


def test_strangers_see_no_page(host):
    for path in ("/", "/config", "/gradio_api/info", "/latest", "/gradio_api/queue/join"):
        assert httpx.get(host.address + path).status_code == 401


def test_the_api_beside_the_page(host):
    assert host.ask("/sdapi/v1/progress")["progress"] == 0
    assert host.ask("/controlnet/version") == {"version": 3}
    assert "Latest pictures" in host.ask("/latest")
    with pytest.raises(Failed) as failed:
        host.ask("/sdapi/v1/nothing")
    assert failed.value.status == 404
