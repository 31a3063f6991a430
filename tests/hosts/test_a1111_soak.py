"""Two hundred jobs of changing units, sizes and failures in one real WebUI: nothing grows and nothing stays.

`webui_server.py` says what it needs. `CONTROLSTACK_WEBUI_JOBS` is the number of jobs, 200 unless it is set.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import pytest
from control_server import PHOTO, Host, difference, job, pixels, png, unit
from webui_server import ABSENT, DIR, URL, running

pytestmark = [pytest.mark.webui, pytest.mark.skipif(not (URL or DIR), reason=ABSENT)]

JOBS = int(os.environ.get("CONTROLSTACK_WEBUI_JOBS", "200"))
WARM = min(90, 2 * JOBS // 5)
"""Jobs after which every model, size and sampler has been met, and the allocator has its pools."""
TXT2IMG, IMG2IMG, DETECT = "/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/controlnet/detect"
SIZES = (64, 96, 128)
HALF = png(np.repeat(np.array([[255, 0]], np.uint8), 64, 0).repeat(32, 1))
HIRES = dict(
    enable_hr=True,
    hr_scale=1.5,
    hr_upscaler="Latent",
    denoising_strength=0.85,
    hr_additional_modules=["Use same choices"],  # or Forge fails
)

draw = random.Random(0)  # noqa: S311  a mix, no secret


def units(image: str | None) -> list[dict[str, Any]]:
    """One to three, each of which acts in the first step or the second."""
    return [
        unit(
            image=image,
            module=draw.choice(("canny", "blur_gaussian", "shuffle", "threshold", "none")),
            model=f"net{draw.randrange(3)}",
            weight=draw.choice((0.3, 1.0, 1.6)),
            guidance_end=draw.choice((0.5, 1.0)),
            control_mode=draw.randrange(3),
            resize_mode=draw.randrange(3),
            processor_res=draw.choice((64, 128, 512)),
            effective_region_mask=draw.choice((None, HALF)),
        )
        for _ in range(draw.randint(1, 3))
    ]


def size() -> dict[str, int]:
    return {"width": draw.choice(SIZES), "height": draw.choice(SIZES)}


def good() -> Iterator[tuple[str, Any]]:
    while True:
        yield TXT2IMG, job(**size())
        yield TXT2IMG, job(*units(PHOTO), **size())
        yield TXT2IMG, job(*units(PHOTO), **size(), sampler_name=draw.choice(("DPM++ 2M", "Heun", "DDIM")))
        yield TXT2IMG, job(*units(PHOTO), **size(), batch_size=2, n_iter=2, prompt="a house AND a tree")
        yield TXT2IMG, job(*units(PHOTO), **size(), **HIRES)
        yield IMG2IMG, job(*units(None), **size(), init_images=[PHOTO], denoising_strength=0.9)
        yield IMG2IMG, job(*units(None), **size(), init_images=[PHOTO], mask=PHOTO, inpaint_full_res=True)
        yield DETECT, {"controlnet_module": "canny", "controlnet_input_images": [PHOTO]}


def bad() -> Iterator[tuple[str, Any, str]]:
    while True:
        yield TXT2IMG, job(*units(PHOTO), **size(), prompt="fail in the UNet"), "says the watch"
        yield TXT2IMG, job(unit(model="none such"), **size()), "There is no control model"
        yield TXT2IMG, job(unit(), unit(weight=9), **size()), "ControlNet unit 1: weight is 9"
        yield TXT2IMG, job(unit(model="other"), **size()), "does not fit the checkpoint"
        yield IMG2IMG, job(unit(), init_images=[PHOTO], prompt="fail in the UNet"), "says the watch"
        yield TXT2IMG, job(unit(image=PHOTO[:4000]), **size()), "cannot be decoded"
        yield DETECT, {"controlnet_module": "canny"}, "No image selected"
        yield TXT2IMG, job(*units(PHOTO), **HIRES, prompt="interrupt me"), ""


def is_done(host: Host, route: str, body: Any) -> None:
    answer = host.post(route, body)
    assert answer.status_code == 200, answer.text
    assert all(pixels(picture).std() > 2 for picture in answer.json()["images"][:1])


def fails(host: Host, route: str, body: Any, says: str) -> None:
    """An interrupted job, for which `says` is empty, is answered with what was painted."""
    answer = host.post(route, body)
    assert (answer.status_code == 200) is (not says)
    assert says in answer.text


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with running(tmp_path_factory.mktemp("webui") / "data") as host:
        yield host


def test_nothing_grows_and_nothing_stays(host: Host) -> None:
    plain, controlled = job(), job(unit(), unit(module="blur_gaussian", model="net1"))
    before = [host.post(TXT2IMG, body).json()["images"][0] for body in (plain, controlled)]
    assert difference(*map(pixels, before)) > 2
    clean, jobs, failures, facts = host.watch(), good(), bad(), []
    for index in range(JOBS):
        if index % 3 == 2:
            fails(host, *next(failures))
        else:
            route, body = next(jobs)
            is_done(host, route, body)
        facts.append(host.watch())
        assert facts[-1]["hooks"] == clean["hooks"], index
        assert facts[-1]["callbacks"] == clean["callbacks"], index
        if index % 3 != 2:
            asked = route != DETECT and body["alwayson_scripts"]["controlnet"]["args"]
            assert bool(facts[-1]["network_calls"]) == bool(asked), index
    after = [host.post(TXT2IMG, body).json()["images"][0] for body in (plain, controlled)]
    assert after == before
    warm, late = facts[WARM : WARM + 30], facts[-30:]
    grown = (median(f["memory"] for f in late) - median(f["memory"] for f in warm)) / 2**20
    print(f"{JOBS} jobs: {warm[-1]} after a while, {late[-1]} in the end, memory grew by {grown:.1f} MiB")
    assert grown < 32
    assert max(f["handles"] for f in late) <= max(f["handles"] for f in warm)
    assert max(f["threads"] for f in late) <= max(f["threads"] for f in warm) + 2, (
        "the server's pool breathes"
    )
