"""The embedded host with the extension, real control models and a script that watches the process."""

from __future__ import annotations

import base64
import io
import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import embedded_server
import httpx
import nets
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

SIZE, STEPS = 64, 2
JOB = dict(prompt="a house", width=SIZE, height=SIZE, steps=STEPS, seed=1, cfg_scale=9, sampler_name="Euler")
RANDOM_BASE = nets.SD1 | dict(cross_attention_dim=64)
"""What `hosts/embedded/random_nets.py` makes for a host without a checkpoint."""

WATCH = """
import hashlib
import os
import threading

import torch
from diffusers import ControlNetModel
from modules import processing, script_callbacks, scripts, shared
from modules.api.api import encode_pil_to_base64

seen = {"network_calls": 0, "fail_at": 0}
handed = {"enlarged": ""}


class Watch(scripts.Script):
    def title(self):
        return "Watch"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process_before_every_sampling(self, p, *args, x, **kwargs):
        seen["fail_at"] = 2 if p.prompt == "fail in the UNet" else 0
        if p.is_hr_pass:
            handed["enlarged"] = hashlib.sha256(x.numpy().tobytes()).hexdigest()


def count(module, args):
    seen["network_calls"] += isinstance(module, ControlNetModel)
    if module is shared.sd_model.unet and seen["fail_at"]:
        seen["fail_at"] -= 1
        if not seen["fail_at"]:
            raise torch.cuda.OutOfMemoryError("out of memory, says the watch")


torch.nn.modules.module.register_module_forward_pre_hook(count)


def look():
    modules = list(shared.sd_model.unet.modules())
    facts = {**seen, **handed}
    facts["hooks"] = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    facts["threads"] = threading.active_count()
    if os.path.exists("/proc/self/statm"):  # Linux
        facts["handles"] = len(os.listdir("/proc/self/fd"))
        with open("/proc/self/statm") as file:
            facts["memory"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    seen["network_calls"] = 0
    return facts


def without_scripts(job: dict):
    p = processing.StableDiffusionProcessingTxt2Img(**job)
    return encode_pil_to_base64(processing.process_images(p).images[0]).decode()


def started(page, app):
    app.add_api_route("/watch", look, methods=["GET"])
    app.add_api_route("/watch/without_scripts", without_scripts, methods=["POST"])


script_callbacks.on_app_started(started)
"""


class Host:
    """A client of the host."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.session = httpx.Client(
            base_url=url, timeout=120, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def post(self, route: str, body: Any) -> httpx.Response:
        """`body` as JSON, NaN and all, or as it is if it is bytes."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.session.post(route, content=content, headers={"Content-Type": "application/json"})

    def pictures(self, *units: Any, route: str = "txt2img", **fields: Any) -> list[NDArray[np.uint8]]:
        answer = self.post(f"/sdapi/v1/{route}", job(*units, **fields))
        assert answer.status_code == 200, answer.text
        return [pixels(picture) for picture in answer.json()["images"]]

    def watch(self) -> dict[str, Any]:
        """What happened since the last time, and how the process is."""
        return self.session.get("/watch").json()


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Host]:
    """Start the host with three control models, net0 to net2, in its folder."""
    write_models(folder / "models" / "ControlNet")
    scripts = folder / "extensions" / "watch" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "watch.py").write_text(textwrap.dedent(WATCH))
    with embedded_server.running(folder, *options) as client:
        host = Host(client.address, folder)
        with host.session:
            yield host


def write_models(folder: Path) -> None:
    """Control models for the base of a host without a checkpoint, strong enough to show after two steps."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(3):
        net = nets.controlnet(RANDOM_BASE, seed=seed)
        for zero_convolution in (*net.controlnet_down_blocks, net.controlnet_mid_block):
            zero_convolution.weight.mul_(4)
        nets.save(folder / f"net{seed}.safetensors", nets.in_ldm(net.state_dict(), "control_model."))


def job(*units: Any, **fields: Any) -> dict[str, Any]:
    """The body of a request for a picture."""
    return {**JOB, "alwayson_scripts": {"controlnet": {"args": list(units)}}, **fields}


def png(array: NDArray[np.uint8], **how: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, how.pop("format", "PNG"), **how)
    return base64.b64encode(file.getvalue()).decode()


def pixels(picture: str) -> NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(base64.b64decode(picture))))


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """In levels of 255."""
    return float(np.abs(a.astype(int) - b).mean())


PHOTO = png(data.astronaut()[:256, :256])


def unit(**fields: Any) -> dict[str, Any]:
    return {"module": "canny", "model": "net0", "image": PHOTO, **fields}
