"""From a photograph through its skeleton to a new picture, as docs/poses.md shows it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import embedded_server
import numpy as np
import pytest
from numpy.typing import NDArray

from controlstack.hosts.embedded.demo_models import BASE, CONTROLNETS, FOLDER

pytest.importorskip(
    "mediapipe.python.solutions", reason="mediapipe 0.10 is not installed", exc_type=ImportError
)
DOCS = Path(__file__).parents[2] / "docs"


def _figure(sheet: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the person in blue is, of BGR: bluer than sky and grass."""
    blue, green, red = sheet.astype(int).transpose(2, 0, 1)
    return (blue - green > 25) & (blue - red > 40)


def test_the_figure_stands_where_the_skeleton_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its limbs are covered by more than half, and more than twice as well as without the control."""
    spec = importlib.util.spec_from_file_location("poses", DOCS / "poses.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "IMAGES", tmp_path / "images")
    models = ["--ckpt", str(FOLDER / f"{BASE}.safetensors"), "--controlnet-dir", str(FOLDER / CONTROLNETS)]
    with embedded_server.running(tmp_path / "data", *models) as client:
        monkeypatch.setattr("sys.argv", ["poses.py", client.address])
        script.main()
        asked = {
            "controlnet_module": "openpose_mediapipe",
            "controlnet_input_images": [script.encode_png(script.skimage.data.astronaut())],
            "controlnet_processor_res": 128,
        }
        skeleton = script.decode(client.ask("/controlnet/detect", asked)["images"][0])
    limbs = cv2.erode(skeleton.any(axis=2).astype(np.uint8), np.ones((2, 2))) > 0
    assert limbs.mean() > 0.01
    covered = {}
    for name in ("with-the-skeleton", "without"):
        sheet = cv2.imread(str(tmp_path / "images" / f"{name}.png"))
        assert sheet.shape == cv2.imread(str(DOCS / "images" / "pose" / f"{name}.png")).shape
        covered[name] = _figure(sheet)[np.tile(limbs, 4)].mean()
    assert covered["with-the-skeleton"] > 0.5
    assert covered["with-the-skeleton"] > 2 * covered["without"]
