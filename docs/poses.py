"""Makes the pictures of `poses.md` at a running WebUI: python docs/poses.py http://127.0.0.1:7861

The WebUI has the demo models and mediapipe 0.10.21; the photograph is scikit-image's astronaut.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data

from controlstack.image import Array, decode, encode_png

IMAGES = Path(__file__).parent / "images" / "pose"
JOB = {"steps": 16, "width": 128, "height": 128, "cfg_scale": 3, "sampler_name": "DDIM"}
PROMPT = "a person in blue on grass under a pale sky, daylight"
SEEDS = range(1, 5)


def main() -> None:
    """One sheet of what is found, and one of what is painted from it."""
    address = sys.argv[1]
    photograph = skimage.data.astronaut()
    found = [_detected(address, photograph, name) for name in ("openpose_mediapipe", "mediapipe_face")]
    _save(
        "astronaut.png",
        [cv2.resize(one, (192, 192), interpolation=cv2.INTER_AREA) for one in (photograph, *found)],
    )
    unit = {
        "image": encode_png(photograph),
        "module": "openpose_mediapipe",
        "model": "controlstack-demo-openpose",
        "pixel_perfect": True,
    }
    _save("with-the-skeleton.png", [_painted(address, seed, [unit]) for seed in SEEDS])
    _save("without.png", [_painted(address, seed, []) for seed in SEEDS])


def _detected(address: str, photograph: Array, name: str) -> Array:
    asked = {"controlnet_module": name, "controlnet_input_images": [encode_png(photograph)]}
    return decode(_post(address, "/controlnet/detect", asked)["images"][0])


def _painted(address: str, seed: int, units: list[dict[str, Any]]) -> Array:
    scripts = {"ControlNet": {"args": units}}
    job = JOB | {"prompt": PROMPT, "seed": seed, "alwayson_scripts": scripts}
    return decode(_post(address, "/sdapi/v1/txt2img", job)["images"][0])


def _post(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310  the address is the caller's own
        address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
        return found


def _save(name: str, pictures: list[Array]) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(IMAGES / name), np.hstack(pictures)[:, :, ::-1])


if __name__ == "__main__":
    main()
