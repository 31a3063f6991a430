"""The public client `webuiapi`, used as its README shows, against the embedded host with the extension."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from control_server import PHOTO, STEPS, Host, difference, pixels, serving
from numpy.typing import NDArray
from PIL import Image

webuiapi = pytest.importorskip("webuiapi")

WIDTH, HEIGHT = 64, 96
JOB = dict(prompt="a house", seed=1, width=WIDTH, height=HEIGHT, cfg_scale=9)
SHOWN = 5
"""Levels of 255 that control has to move a picture by, on average."""
photo = Image.fromarray(pixels(PHOTO))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with serving(tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture(scope="module")
def api(host: Host) -> Any:
    return webuiapi.WebUIApi(
        host=urlsplit(host.url).hostname, port=urlsplit(host.url).port, sampler="Euler", steps=STEPS
    )


def generate(api: Any, *units: Any, **fields: Any) -> Any:
    """txt2img, or img2img where `images` come."""
    fields = {**JOB, "controlnet_units": list(units), **fields}
    return (api.img2img if "images" in fields else api.txt2img)(**fields)


def first(result: Any) -> NDArray[np.uint8]:
    return np.array(result.image)


def unit(**fields: Any) -> Any:
    return webuiapi.ControlNetUnit(**{"image": photo, "module": "canny", "model": "net0", **fields})


@pytest.fixture(scope="module")
def plain(api: Any) -> NDArray[np.uint8]:
    return first(generate(api))


def test_the_lists(api: Any) -> None:
    assert api.controlnet_version() == 3
    assert [name.partition(" [")[0] for name in api.controlnet_model_list()] == ["net0", "net1", "net2"]
    assert {"none", "canny", "inpaint_only", "tile_resample"} <= set(api.controlnet_module_list())
    assert "controlnet" in api.get_scripts()["txt2img"]
    assert {"Euler", "Euler a", "DDIM"} <= set(api.util_get_sampler_names())
    assert {"automatic", "karras"} <= set(api.util_get_scheduler_names())
    assert [api.util_get_current_model()] == api.util_get_model_names()
    assert {"Latent", "Latent (nearest)"} <= {mode["name"] for mode in api.get_latent_upscale_modes()}


def test_a_model_by_the_name_that_the_list_gives(api: Any, plain: NDArray[np.uint8]) -> None:
    by_list = generate(api, unit(model=api.controlnet_model_list()[0]))
    assert np.array_equal(first(by_list), first(generate(api, unit())))
    assert difference(first(by_list), plain) >= SHOWN


def test_every_control_mode_acts_in_its_own_way(api: Any, plain: NDArray[np.uint8]) -> None:
    """The client takes the modes as numbers and sends their labels."""
    pictures = [first(generate(api, unit(control_mode=mode, weight=2))) for mode in range(3)]
    assert all(difference(picture, plain) >= SHOWN for picture in pictures)
    assert all(difference(pictures[i], pictures[i - 1]) >= 1 for i in range(3))
    assert np.array_equal(first(generate(api, unit(control_mode="Balanced", weight=2))), pictures[0])


def test_every_resize_mode_acts_in_its_own_way(api: Any, plain: NDArray[np.uint8]) -> None:
    modes = ("Just Resize", "Crop and Resize", "Resize and Fill")
    results = [generate(api, unit(module="none", resize_mode=mode)) for mode in modes]
    assert all(difference(first(result), plain) >= SHOWN for result in results)
    maps = [np.array(result.images[1]) for result in results]
    stretched = photo.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    assert difference(maps[0], np.array(stretched)) < 10
    scaled = np.array(photo.resize((HEIGHT, HEIGHT), Image.Resampling.BOX))
    assert difference(maps[1], scaled[:, (HEIGHT - WIDTH) // 2 : (HEIGHT + WIDTH) // 2]) < 10
    small = np.array(photo.resize((WIDTH, WIDTH), Image.Resampling.BOX))
    assert difference(maps[2][(HEIGHT - WIDTH) // 2 : (HEIGHT + WIDTH) // 2], small) < 10


def test_two_units(api: Any, plain: NDArray[np.uint8]) -> None:
    one = generate(api, unit())
    both = generate(api, unit(), unit(module="blur_gaussian", model="net1", weight=0.7))
    assert (len(one.images), len(both.images)) == (2, 3)
    assert difference(first(both), first(one)) >= SHOWN
    assert difference(first(both), plain) >= SHOWN


def test_what_a_unit_says_decides(host: Host, api: Any, plain: NDArray[np.uint8]) -> None:
    host.watch()
    for silent in (unit(enabled=False), unit(weight=0), unit(guidance_start=0.9, guidance_end=0.95)):
        assert np.array_equal(first(generate(api, silent)), plain)
    assert host.watch()["network_calls"] == 0
    half = first(generate(api, unit(guidance_end=0.5)))
    assert host.watch()["network_calls"] == STEPS // 2
    assert difference(half, plain) >= 1
    many_edges = first(generate(api, unit(threshold_a=1, threshold_b=2)))
    assert difference(many_edges, first(generate(api, unit(threshold_a=100, threshold_b=200)))) >= 1


def test_a_plain_call_after_a_controlled_one_is_plain(api: Any, plain: NDArray[np.uint8]) -> None:
    """The client sends the units of the call before once more unless it knows the host to have ControlNet."""
    assert api.has_controlnet
    api.txt2img(**JOB, controlnet_units=[unit()])
    assert np.array_equal(first(api.txt2img(**JOB)), plain)


def test_img2img(api: Any) -> None:
    """A unit without a picture, which the client sends as "", looks at the init picture."""
    painted = dict(images=[photo], denoising_strength=0.9)
    bare = first(generate(api, **painted))
    lent = generate(api, unit(image=None), **painted)
    assert difference(first(lent), bare) >= SHOWN
    assert np.array_equal(first(lent), first(generate(api, unit(resize_mode="Just Resize"), **painted)))


def test_inpainting(api: Any) -> None:
    """What the mask spares stays; what it covers follows the unit, which brings its own mask."""
    mask = np.zeros((256, 256), np.uint8)
    mask[128:] = 255
    painted = dict(images=[photo], mask_image=Image.fromarray(mask), mask_blur=0, denoising_strength=0.9)
    painted |= dict(inpaint_full_res=False, inpainting_fill=1)
    bare = first(generate(api, **painted))
    controlled = first(generate(api, unit(module="inpaint_only", mask=Image.fromarray(mask)), **painted))
    half, edge = HEIGHT // 2, 6
    assert np.array_equal(controlled[: half - edge], bare[: half - edge])
    assert difference(controlled[half + edge :], bare[half + edge :]) >= SHOWN


def test_hires_fix(host: Host, api: Any) -> None:
    enlarged = dict(enable_hr=True, hr_scale=1.5, denoising_strength=0.85)
    bare = first(generate(api, **enlarged))
    assert bare.shape[:2] == (HEIGHT * 3 // 2, WIDTH * 3 // 2)
    for option, passes in (("Both", 2), ("Low res only", 1), ("High res only", 1)):
        host.watch()
        result = generate(api, unit(module="blur_gaussian", weight=2, hr_option=option), **enlarged)
        assert host.watch()["network_calls"] == passes * STEPS
        assert difference(first(result), bare) >= SHOWN
        assert [picture.size for picture in result.images[1:]] == [(96, 144), (64, 96)]


def test_several_pictures_at_once(api: Any) -> None:
    result = generate(api, unit(), batch_size=2, n_iter=2)
    assert len(result.images) == 4 + 1
    assert result.info["all_seeds"] == [1, 2, 3, 4]
    for i in range(4):
        assert difference(np.array(result.images[i]), first(generate(api, unit(), seed=1 + i))) < 1


def test_detect_with_the_clients_own_field_names(api: Any) -> None:
    """The map equals the one of a unit at the same size, with the same numbers."""
    square = photo.resize((64, 64))
    detected = api.controlnet_detect(
        [square, photo], module="canny", processor_res=64, threshold_a=64, threshold_b=128
    )
    assert detected.info == "Success"
    assert [picture.size for picture in detected.images] == [(64, 64), (64, 64)]
    numbers = dict(processor_res=64, threshold_a=64, threshold_b=128)
    shown = generate(api, unit(image=square, **numbers), width=64, height=64).images[1]
    assert np.array_equal(np.array(shown), np.array(detected.image))


def test_what_was_done_is_written_into_the_picture(api: Any) -> None:
    picture = generate(api, unit(weight=0.8)).image
    text = api.png_info(picture).info
    assert text.startswith("a house\n")
    assert "Seed: 1," in text
    assert 'ControlNet 0: "Module: canny, Model: net0 [' in text
    assert "Weight: 0.8," in text


def test_mistakes_raise_in_the_client(api: Any) -> None:
    with pytest.raises(RuntimeError, match=r"ControlNet unit 1: There is no control model called .+canny"):
        generate(api, unit(), unit(model="canny"))
    with pytest.raises(RuntimeError, match="ControlNet unit 0: It is enabled but has no picture"):
        generate(api, unit(image=None))


def test_progress_and_interrupt(host: Host, api: Any) -> None:
    host.watch()
    result: list[Any] = []
    job = threading.Thread(target=lambda: result.append(generate(api, unit(), steps=500)))
    job.start()
    while job.is_alive() and api.get_progress()["state"]["sampling_step"] < 1:
        time.sleep(0.05)
    assert 0 < api.get_progress()["progress"] < 1
    api.interrupt()
    job.join(30)
    assert not job.is_alive()
    assert len(result[0].images) == 2
    assert 0 < host.watch()["network_calls"] < 500
    api.util_wait_for_ready(check_interval=0.05)
    assert api.get_progress()["progress"] == 0


def test_options(api: Any) -> None:
    before = api.get_options()["CLIP_stop_at_last_layers"]
    api.set_options({"CLIP_stop_at_last_layers": 2})
    assert api.get_options()["CLIP_stop_at_last_layers"] == 2
    api.set_options({"CLIP_stop_at_last_layers": before})
