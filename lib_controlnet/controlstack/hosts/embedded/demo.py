"""`python -m controlstack.hosts.embedded.demo`: the embedded host with random nets, asked for pictures."""

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
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from PIL import Image

from controlstack.hosts import embedded
from controlstack.hosts.embedded import demo_models
from controlstack.hosts.embedded.contact_sheet import contact_sheet

JOB: dict[str, Any] = {
    "prompt": "an astronaut",
    "seed": 1,
    "steps": 6,
    "width": 256,
    "height": 256,
    "cfg_scale": 4.0,
}
CANNY = {"module": "canny", "model": "demo_canny"}
LINEART = {"module": "lineart_standard", "model": "demo_lineart"}
STACKS = {
    "txt2img": {"canny": [CANNY], "lineart": [LINEART], "canny and lineart": [CANNY, LINEART]},
    "img2img": {"canny": [CANNY]},
}
VISIBLE = 2.0
"""Mean difference, of 255 levels, that a control must make."""


class DemoError(Exception):
    """What the demo shows is not so."""


def main() -> int:
    """Make the pictures, say where they are, and serve until Ctrl-C. Returns the exit code."""
    asked = _arguments()
    models = asked.out / "models"
    demo_models.ensure(models)
    torch.set_num_threads(1)  # with nets this small, threads wait for each other more than they work
    options = ["--output-dir", str(asked.out), "--controlnet-dir", str(models)]
    embedded.boot([*options, *(["--nowebui"] if asked.once else [])])
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
    photograph = _photograph()
    cells = [("the photograph", photograph)]
    for route, stacks in STACKS.items():
        job = (
            JOB
            if route == "txt2img"
            else {**JOB, "init_images": [_encoded(photograph)], "denoising_strength": 0.6}
        )
        plain = _ask(address, route, job, [])[0]
        cells.append((f"{route}, plain", plain))
        for name, stack in stacks.items():
            units = [{**unit, "enabled": True, "image": _encoded(photograph)} for unit in stack]
            picture, *maps = _ask(address, route, job, units)
            _check(f"{route} with {name}", plain, picture, len(stack), maps)
            cells.append((f"{route}, {name}", picture))
            cells += [(f"{route}, {name}, map {place}", detected) for place, detected in enumerate(maps)]
    for number, (title, picture) in enumerate(cells):
        picture.save(out / f"{number:02}-{title.replace(', ', '-').replace(' ', '-')}.png")
    sheet = out / "contact-sheet.png"
    contact_sheet(cells).save(sheet)
    _say(f"{len(cells)} pictures and maps are in {out}, all of them on {sheet}")
    _say("The nets are random, so the pictures are textures: what they show is that every unit acts.")


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


def _photograph() -> Image.Image:
    """Eileen Collins, a NASA photograph in the public domain that scikit-image ships."""
    from skimage import data

    return Image.fromarray(data.astronaut()).resize((JOB["width"], JOB["height"]), Image.Resampling.LANCZOS)


def _encoded(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _say(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
