"""The extension in a running host, asked as programs ask it. What a picture shows is asserted on pixels."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nets
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

ROOT = Path(__file__).parents[2]
SIZE = 128
RANDOM_BASE = nets.SD1 | dict(cross_attention_dim=64)
"""What `hosts/embedded/random_nets.py` makes for a host without a checkpoint."""

PROBE = """
import hashlib

import torch
from diffusers import ControlNetModel
from modules import processing, script_callbacks, scripts, shared
from modules.api.api import encode_pil_to_base64

seen = {"network_calls": 0, "fail_at": 0, "enlarged": ""}


class Probe(scripts.Script):
    def title(self):
        return "Probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process_before_every_sampling(self, p, *args, x, **kwargs):
        if p.is_hr_pass:
            seen["enlarged"] = hashlib.sha256(x.numpy().tobytes()).hexdigest()


def count(module, args):
    seen["network_calls"] += isinstance(module, ControlNetModel)
    if module is shared.sd_model.unet and seen["fail_at"]:
        seen["fail_at"] -= 1
        if not seen["fail_at"]:
            raise torch.cuda.OutOfMemoryError("out of memory, says the probe")


torch.nn.modules.module.register_module_forward_pre_hook(count)


def state(fail_at: int = 0):
    modules = list(shared.sd_model.unet.modules())
    answer = {**seen, "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)}
    seen.update(network_calls=0, fail_at=fail_at)
    return answer


def without_scripts(job: dict):
    p = processing.StableDiffusionProcessingTxt2Img(**job)
    return encode_pil_to_base64(processing.process_images(p).images[0]).decode()


def started(page, app):
    app.add_api_route("/probe", state, methods=["GET"])
    app.add_api_route("/probe/without_scripts", without_scripts, methods=["POST"])


script_callbacks.on_app_started(started)
"""


class Host:
    """A client of the host."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, units: object, *, route: str = "txt2img", **job: Any) -> httpx.Response:
        asked = {**JOB, "alwayson_scripts": {"controlnet": {"args": units}}, **job}
        return httpx.post(f"{self.url}/sdapi/v1/{route}", json=asked, timeout=300)

    def pictures(self, *units: object, **job: Any) -> list[NDArray[np.uint8]]:
        answer = self.post(units, **job)
        assert answer.status_code == 200, answer.text
        return [pixels(picture) for picture in answer.json()["images"]]

    def probe(self, **ask: int) -> dict[str, int]:
        """What happened since the last time."""
        return httpx.get(f"{self.url}/probe", params=ask).json()


JOB = dict(prompt="a house", width=SIZE, height=SIZE, steps=4, seed=1, cfg_scale=9, sampler_name="Euler")
HIRES = dict(enable_hr=True, hr_scale=1.5, denoising_strength=0.85)


def pixels(picture: str) -> NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(base64.b64decode(picture))))


def png(array: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


PHOTO = png(data.astronaut())


def unit(**fields: object) -> dict[str, object]:
    return {"module": "canny", "model": "net0", "image": PHOTO, **fields}


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    models, probe = folder / "models" / "ControlNet", folder / "extensions" / "probe" / "scripts"
    models.mkdir(parents=True)
    probe.mkdir(parents=True)
    (probe / "probe.py").write_text(textwrap.dedent(PROBE))
    for i in range(3):
        net = nets.controlnet(RANDOM_BASE, seed=i)
        for zero_convolution in (*net.controlnet_down_blocks, net.controlnet_mid_block):
            zero_convolution.weight.mul_(2)
        nets.save(models / f"net{i}.safetensors", nets.in_ldm(net.state_dict(), "control_model."))
    nets.save(models / "other.safetensors", nets.controlnet(nets.SDXL).state_dict())
    (models / "broken.safetensors").write_bytes(b"not a model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "controlstack.hosts.embedded",
        "--port",
        str(port),
        "--data-dir",
        str(folder),
    ]
    paths = os.pathsep.join([str(ROOT / "lib_controlnet"), os.environ.get("PYTHONPATH", "")])
    log = (folder / "log.txt").open("w")
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": paths}, stdout=log, stderr=subprocess.STDOUT
    ) as serving:
        try:
            yield _ready(Host(f"http://127.0.0.1:{port}"), serving, folder / "log.txt")
        finally:
            serving.terminate()


def _ready(host: Host, serving: subprocess.Popen[bytes], log: Path) -> Host:
    for _ in range(240):
        assert serving.poll() is None, log.read_text()
        try:
            httpx.get(host.url)
        except httpx.TransportError:
            time.sleep(0.5)
        else:
            return host
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="module")
def plain(host: Host) -> NDArray[np.uint8]:
    return host.pictures()[0]


@pytest.fixture(autouse=True)
def nothing_is_left(host: Host) -> Iterator[None]:
    """After every test of this file: no hook on the UNet."""
    host.probe()
    yield
    assert host.probe()["hooks"] == 0


def test_two_stacked_units_change_the_picture_and_show_their_maps(
    host: Host, plain: NDArray[np.uint8]
) -> None:
    one, canny = host.pictures(unit())
    assert host.probe()["network_calls"] == JOB["steps"]
    both, canny_again, blur = host.pictures(unit(), unit(module="blur_gaussian", model="net1"))
    assert host.probe()["network_calls"] == 2 * JOB["steps"]
    assert difference(one, plain) >= 5
    assert difference(both, plain) >= 5
    assert difference(both, one) >= 5
    assert np.array_equal(canny, canny_again)
    assert set(np.unique(canny)) == {0, 255}
    assert blur.shape == canny.shape == (SIZE, SIZE, 3)


def test_the_extension_alone_changes_nothing(host: Host, plain: NDArray[np.uint8]) -> None:
    bare = httpx.post(f"{host.url}/probe/without_scripts", json=JOB, timeout=300).json()
    assert np.array_equal(pixels(bare), plain)


@pytest.mark.parametrize(
    "still",
    [
        dict(weight=0),
        dict(guidance_start=0.9, guidance_end=0.95),
        dict(effective_region_mask=png(np.zeros((64, 64), np.uint8))),
        dict(enabled=False),
        dict(enabled="false", weight="heavy", resize_mode="?"),
    ],
    ids=["weight 0", "outside the window", "empty region", "disabled", "disabled and wrong"],
)
def test_what_must_not_act_changes_no_bit(
    host: Host, plain: NDArray[np.uint8], still: dict[str, object]
) -> None:
    assert difference(host.pictures(unit())[0], plain) >= 5
    assert host.probe()["network_calls"] == JOB["steps"]
    assert np.array_equal(host.pictures(unit(**still))[0], plain)
    assert host.probe()["network_calls"] == 0


def test_a_unit_that_never_acted_says_so(host: Host) -> None:
    info = json.loads(host.post([unit(guidance_start=0.9, guidance_end=0.95)]).json()["info"])
    assert "unit 0 had no effect" in json.dumps(info)


def test_what_a_preprocessor_cannot_do_yet_is_said(host: Host) -> None:
    info = host.post([unit(module="tile_colorfix")]).json()["info"]
    assert "ControlNet unit 0: tile_colorfix only prepares its map" in info
    assert "only prepares its map" not in host.post([unit()]).json()["info"]


def test_hires_fix_runs_a_unit_in_the_passes_it_names(host: Host) -> None:
    bare = host.pictures(**HIRES)[0]
    assert bare.shape[:2] == (192, 192)
    shown = {}
    for option, passes in (("Both", 2), ("Low res only", 1), ("High res only", 1)):
        host.probe()
        picture, *maps = host.pictures(unit(module="blur_gaussian", weight=2, hr_option=option), **HIRES)
        calls = host.probe()["network_calls"]
        assert calls == passes * JOB["steps"], option
        assert difference(picture, bare) >= 5, option
        assert [m.shape[:2] for m in maps] == [(192, 192), (SIZE, SIZE)]
        shown[option] = picture
    assert difference(shown["Both"], shown["Low res only"]) > 1
    assert difference(shown["Both"], shown["High res only"]) > 1


def test_in_the_wrong_pass_no_bit_changes(host: Host) -> None:
    """What the first pass hands to the second, as a hash of its latents."""
    handed = {}
    for option in (None, "High res only", "Low res only"):
        host.pictures(*([unit(hr_option=option)] if option else []), **HIRES)
        handed[option] = host.probe()["enlarged"]
    assert handed["Low res only"] != handed[None]
    assert handed["High res only"] == handed[None]


def test_high_res_only_is_ignored_without_hires_fix(host: Host) -> None:
    assert np.array_equal(host.pictures(unit(hr_option="High res only"))[0], host.pictures(unit())[0])


MISTAKES = {
    "unknown model": (unit(model="nothing like it"), "no control model called 'nothing like it'"),
    "unknown preprocessor": (unit(module="cany"), "no preprocessor called 'cany'. Did you mean canny?"),
    "no model": (unit(model=None), "has no model"),
    "no picture": (unit(image=None), "has no picture"),
    "broken picture": (unit(image=PHOTO[:200]), "cannot be decoded"),
    "no picture at all": (unit(image="/etc/passwd"), "Send the picture itself as base64"),
    "mask of another size": (
        unit(module="inpaint_only", mask=png(np.zeros((9, 9), np.uint8))),
        "mask is 9x9",
    ),
    "another base": (unit(model="other"), "does not fit the checkpoint"),
    "no model file": (unit(model="broken"), "cannot be read"),
    "too heavy": (unit(weight=3), "weight is 3"),
    "start after end": (unit(guidance_start=0.6, guidance_end=0.4), "after guidance_end"),
    "layers": (unit(advanced_weighting=[1, 1]), "takes 13"),
    "no unit": ("canny", "cannot be made of 'canny'"),
}


@pytest.mark.parametrize(("wrong", "sentence"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_said_and_leaves_nothing_behind(
    host: Host, plain: NDArray[np.uint8], wrong: object, sentence: str
) -> None:
    answer = host.post([unit(), wrong])
    assert answer.status_code >= 400
    assert "ControlNet unit 1: " in answer.json()["errors"]
    assert sentence in answer.json()["errors"]
    assert "images" not in answer.json()
    assert host.probe()["hooks"] == 0
    assert np.array_equal(host.pictures()[0], plain)


def test_too_many_units_are_said(host: Host) -> None:
    answer = host.post([unit(weight=0)] * 11)
    assert answer.status_code >= 400
    assert "At most 10" in answer.json()["errors"]


def test_a_failure_inside_the_unet_leaves_nothing_behind(host: Host, plain: NDArray[np.uint8]) -> None:
    host.probe(fail_at=3)
    answer = host.post([unit()])
    assert answer.status_code == 500
    assert "says the probe" in answer.json()["errors"]
    after = host.probe()
    assert (after["network_calls"], after["hooks"]) == (2, 0)
    assert np.array_equal(host.pictures()[0], plain)


def test_more_batches_give_one_map_and_the_same_pictures(host: Host) -> None:
    several = host.pictures(unit(), batch_size=2, n_iter=2)
    assert len(several) == 4 + 1
    for i, picture in enumerate(several[:4]):
        assert difference(picture, host.pictures(unit(), seed=1 + i)[0]) < 1


def test_img2img_lends_its_picture(host: Host) -> None:
    job = dict(route="img2img", init_images=[PHOTO], denoising_strength=0.85)
    bare = host.pictures(**job)[0]
    lent, canny = host.pictures(unit(image=None), **job)
    own = host.pictures(unit(resize_mode="Just Resize"), **job)[0]
    assert difference(lent, bare) >= 3
    assert set(np.unique(canny)) <= {0, 255}
    assert np.array_equal(lent, own)


def test_only_masked_shows_the_control_what_is_painted(host: Host) -> None:
    """The hint is the part of the init picture that the host paints, seen through its own crop."""
    mask = np.zeros((512, 512), np.uint8)
    mask[100:300, 150:350] = 255
    job = dict(
        route="img2img",
        init_images=[PHOTO],
        mask=png(mask),
        mask_blur=0,
        inpaint_full_res=True,
        inpaint_full_res_padding=0,
        denoising_strength=0.7,
    )
    _, seen = host.pictures(unit(module="none", image=None), **job)
    crop = Image.fromarray(data.astronaut()[100:300, 150:350]).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    assert difference(seen, np.array(crop)) < 1
