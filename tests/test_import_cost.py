"""What a host's start pays for the extension: time and memory beside what is loaded there anyway."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from controlstack import preprocess

CODE = """
import importlib, json, os, pkgutil, sys, time

import cv2, fastapi, fastapi.security, gradio, numpy, PIL.ImageOps, pydantic, safetensors, torch  # the host's


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


loaded, bytes_, seconds = set(sys.modules), resident(), time.process_time()
from controlstack import family, preprocess, session
import controlstack.faces
for module in pkgutil.walk_packages(controlstack.faces.__path__, "controlstack.faces."):
    importlib.import_module(module.name)
broken = {**preprocess._load_rooms(), **family._load_rooms()}
print(json.dumps({
    "seconds": time.process_time() - seconds,
    "megabytes": (resident() - bytes_) / 2**20,
    "broken": [*broken],
    "packages": sorted({name.partition(".")[0] for name in set(sys.modules) - loaded}),
}))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory as Linux tells it")
def test_loading_everything_takes_less_than_a_second_and_60_mb():
    """All rooms, families and faces; CPU time, for other processes may be running."""
    root = Path(__file__).parents[1] / "lib_controlnet"
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, cwd=root)
    cost = json.loads(done.stdout)
    assert cost["broken"] == []
    assert cost["seconds"] < 1
    assert cost["megabytes"] < 60
    needed = {package for one in preprocess.everything() for package in one.packages}
    assert not needed & {*cost["packages"]}
    assert "diffusers" not in cost["packages"]
