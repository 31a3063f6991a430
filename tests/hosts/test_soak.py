"""Three hundred good and bad jobs, from one client and from two at once: nothing grows and nothing stays."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from control_server import PHOTO, Host, job, serving, unit

ROUNDS, JOBS, WARM_UP = 6, 50, 2
"""Every second round has two clients."""
TXT2IMG, IMG2IMG, DETECT = "/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/controlnet/detect"
TWO_UNITS = (unit(model="net1"), unit(module="blur_gaussian", model="net2", control_mode=1))

GOOD: dict[str, tuple[str, Any]] = {
    "plain": (TXT2IMG, job()),
    "another plain one": (TXT2IMG, job(seed=2)),
    "one unit": (TXT2IMG, job(unit())),
    "one unit, another seed": (TXT2IMG, job(unit(), seed=2)),
    "one unit in a window": (TXT2IMG, job(unit(guidance_end=0.5))),
    "two units": (TXT2IMG, job(*TWO_UNITS)),
    "hires fix": (TXT2IMG, job(unit(), enable_hr=True, hr_scale=1.5, denoising_strength=0.7)),
    "img2img": (IMG2IMG, job(unit(image=None), init_images=[PHOTO], denoising_strength=0.7)),
    "inpainting": (IMG2IMG, job(unit(module="inpaint_only", image=None), init_images=[PHOTO], mask=PHOTO)),
    "detect": (DETECT, {"controlnet_module": "canny", "controlnet_input_images": [PHOTO]}),
}
BAD: dict[str, tuple[str, Any, str]] = {
    "no such model": (TXT2IMG, job(unit(model="none such")), "There is no control model"),
    "the second unit": (TXT2IMG, job(unit(), unit(weight=9)), "ControlNet unit 1: weight is 9"),
    "half a picture": (TXT2IMG, job(unit(image=PHOTO[:4000])), "cannot be decoded"),
    "in the UNet": (TXT2IMG, job(unit(), prompt="fail in the UNet"), "says the watch"),
    "in the UNet, two units": (TXT2IMG, job(*TWO_UNITS, prompt="fail in the UNet"), "says the watch"),
    "no JSON": (TXT2IMG, b"{", "JSON decode error"),
    "nothing to detect": (DETECT, {"controlnet_module": "canny"}, "No image selected"),
}


def run(host: Host, name: str, expected: dict[str, str]) -> dict[str, int]:
    """One job, checked. Returns how the process is after it."""
    if name in GOOD:
        assert digest(host, name) == expected[name], name
    else:
        route, body, says = BAD[name]
        answer = host.post(route, body)
        assert answer.status_code >= 400
        assert says in answer.text
    return host.watch()


def digest(host: Host, name: str) -> str:
    """Of the pictures and maps that a good job gives."""
    answer = host.post(*GOOD[name])
    assert answer.status_code == 200, answer.text
    return sha256("".join(answer.json()["images"]).encode()).hexdigest()


def rounds(host: Host, expected: dict[str, str]) -> tuple[list[list[int]], list[dict[str, int]]]:
    """For each round the memory after each of its jobs, and how the process is when all is quiet."""
    draw = random.Random(0)  # noqa: S311  a mix, no secret
    memory, quiet = [], []
    for index in range(ROUNDS):
        names = draw.choices([*GOOD, *BAD], k=JOBS)
        clients = 1 + index % 2

        def one_client(share: Sequence[str]) -> list[dict[str, int]]:
            return [run(host, name, expected) for name in share]

        with ThreadPoolExecutor(clients) as pool:
            shares = pool.map(one_client, (names[i::clients] for i in range(clients)))
            memory.append([facts.get("memory", 0) for share in shares for facts in share])
        quiet.append(host.watch())
    return memory, quiet


@pytest.mark.skipif(sys.platform != "linux", reason="memory and handles are read from /proc")
def test_nothing_grows_and_nothing_stays(tmp_path: Path) -> None:
    with serving(tmp_path) as host:
        expected = {name: digest(host, name) for name in GOOD}
        assert len(set(expected.values())) == len(GOOD)
        memory, quiet = rounds(host, expected)
        warm, last = quiet[WARM_UP - 1], quiet[-1]
        assert {facts["hooks"] for facts in quiet} == {0}
        assert last["handles"] <= warm["handles"]
        assert last["threads"] <= warm["threads"] + 2, "the server's pool is at most two clients wide"
        grown = median(memory[-1]) - median(memory[WARM_UP])
        assert grown < 24 * 2**20, f"memory grew by {grown / 2**20:.0f} MiB"
        assert {name: digest(host, name) for name in GOOD} == expected
