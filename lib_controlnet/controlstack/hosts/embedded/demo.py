"""`python -m controlstack.hosts.embedded.demo`: the embedded host paints with small trained nets."""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from PIL import Image

from controlstack.hosts import embedded
from controlstack.hosts.embedded.contact_sheet import contact_sheet
from controlstack.hosts.embedded.demo_models import BASE, CONTROLNETS, EXAMPLES, FOLDER, controlnet

JOB: dict[str, Any] = {"steps": 12, "width": 128, "height": 128, "cfg_scale": 3.0, "sampler_name": "DDIM"}
COINS = "a white sphere, a yellow sphere and an orange sphere before a dark wall, daylight"
SCENE = "a blue sphere and a yellow cone on stone under a pale sky, daylight"
VISIBLE = 2.0
"""Mean difference, of 255 levels, that a control must make."""


@dataclass(frozen=True)
class Request:
    """One picture to ask for, and the pictures, by name, that its units are handed."""

    title: str
    prompt: str
    seed: int
    units: tuple[tuple[str, str, str], ...]
    """Of each unit: kind of model, preprocessor, picture."""
    start: str | None = None
    """The picture of img2img."""


REQUESTS = (
    Request("coins, canny", COINS, 4, (("canny", "canny", "coins"),)),
    Request("img2img of coins, canny", COINS, 4, (("canny", "canny", "coins"),), start="coins"),
    Request("scene, canny", SCENE, 2, (("canny", "canny", "scene"),)),
    Request("scene, depth", SCENE, 2, (("depth", "none", "its depth"),)),
    Request("scene, both stacked", SCENE, 2, (("canny", "canny", "scene"), ("depth", "none", "its depth"))),
)


class DemoError(Exception):
    """What the demo shows is not so."""


def main() -> int:
    """Make the pictures, say where they are, and serve until Ctrl-C. Returns the exit code."""
    asked = _arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # with nets this small, threads wait for each other more than they work
    models = ["--ckpt", str(FOLDER / f"{BASE}.safetensors"), "--controlnet-dir", str(FOLDER / CONTROLNETS)]
    embedded.boot([*models, "--output-dir", str(asked.out), *(["--nowebui"] if asked.once else [])])
    try:
        with _serving(asked.port) as (address, ended):
            _say(f"The embedded WebUI serves on {address}")
            _make_pictures(address, asked.out)
            if not asked.once:
                _say(f"Still serving on {address}; Ctrl-C ends it.")
                ended.join()
    except KeyboardInterrupt:
        return 0
    except DemoError as error:
        _say(f"The demo failed: {error}")
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m controlstack.hosts.embedded.demo", description=__doc__)
    root = Path(__file__).resolve().parents[4]
    parser.add_argument("--once", action="store_true", help="end after the pictures")
    parser.add_argument("--out", type=Path, default=root / "outputs" / "demo", help="where the pictures go")
    parser.add_argument("--port", type=int, default=7861, help="serve on this port, or on the next free one")
    return parser.parse_args()


@contextmanager
def _serving(port: int) -> Iterator[tuple[str, Thread]]:
    from controlstack.hosts.embedded import server

    port = server.free_port(port)
    running = server.create_server(port)
    thread = Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        thread.join(0.05)
        if not thread.is_alive():
            raise DemoError(f"the server did not start on port {port}")
    try:
        yield f"http://{server.HOST}:{port}", thread
    finally:
        running.should_exit = True
        thread.join(10)


def _make_pictures(address: str, out: Path) -> None:
    """Ask for each picture and hold it against the one without control; save all, also on one sheet."""
    given = {"coins": _coins(), "scene": _shipped("scene"), "its depth": _shipped("scene-depth")}
    cells = list(given.items())
    plains: dict[tuple[str, str, int], Image.Image] = {}
    for request in REQUESTS:
        job = {**JOB, "prompt": request.prompt, "seed": request.seed}
        route = "txt2img"
        if request.start is not None:
            route = "img2img"
            job |= {"init_images": [_encoded(given[request.start])], "denoising_strength": 0.8}
        units = [
            {
                "model": controlnet(kind),
                "module": module,
                "image": _encoded(given[name]),
                "pixel_perfect": True,
            }
            for kind, module, name in request.units
        ]
        asked = (route, request.prompt, request.seed)
        if asked not in plains:
            plains[asked] = _ask(address, route, job, [])[0]
        plain = plains[asked]
        picture, *maps = _ask(address, route, job, units)
        _check(request.title, plain, picture, len(units), maps)
        cells += [(f"{request.title}: its map {place}", detected) for place, detected in enumerate(maps)]
        cells += [(f"{request.title}: off", plain), (f"{request.title}: on", picture)]
    for number, (title, picture) in enumerate(cells):
        name = title.replace(",", "").replace(": ", "-").replace(" ", "-")
        picture.save(out / f"{number:02}-{name}.png")
    sheet = out / "contact-sheet.png"
    contact_sheet(cells).save(sheet)
    _say(f"{len(cells)} pictures and maps are in {out}, all of them on {sheet}")


def _check(name: str, plain: Image.Image, picture: Image.Image, units: int, maps: list[Image.Image]) -> None:
    difference = float(np.abs(np.asarray(picture, np.float32) - np.asarray(plain, np.float32)).mean())
    if difference < VISIBLE:
        raise DemoError(f"{name} differs from the plain picture by only {difference:.2f} of 255 levels")
    if len(maps) != units:
        raise DemoError(f"{name} came with {len(maps)} detected maps instead of {units}")
    _say(f"{name}: differs from the plain picture by {difference:.1f} of 255 levels")


def _ask(
    address: str, route: str, job: Mapping[str, Any], units: Sequence[Mapping[str, Any]]
) -> list[Image.Image]:
    """The pictures of an answer: the job's own, then the detected maps."""
    body = json.dumps({**job, "alwayson_scripts": {"ControlNet": {"args": units}}}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/sdapi/v1/{route}", body, headers)  # noqa: S310  our own address
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            pictures = json.loads(answer.read())["images"]
    except urllib.error.HTTPError as error:
        raise DemoError(f"{route} answered {error.code}: {error.read().decode()}") from error
    return [Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB") for picture in pictures]


def _coins() -> Image.Image:
    """Greek coins, a photograph of the Brooklyn Museum without known restrictions; scikit-image ships it."""
    from skimage import data

    size = (JOB["width"], JOB["height"])
    four_coins = (250, 0, 384, 134)
    return (
        Image.fromarray(data.coins()).convert("RGB").crop(four_coins).resize(size, Image.Resampling.LANCZOS)
    )


def _shipped(name: str) -> Image.Image:
    return Image.open(FOLDER / EXAMPLES / f"{name}.png").convert("RGB")


def _encoded(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _say(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
