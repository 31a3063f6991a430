"""The demo as its users start it: a process that makes pictures, serves, and ends on Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from controlstack.hosts.embedded import demo

PACKAGES = Path(__file__).parents[2] / "lib_controlnet"


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(PACKAGES), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "controlstack.hosts.embedded.demo", "--out", str(out), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )


def test_pictures_then_serving_until_ctrl_c(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start(tmp_path, "--port", str(port))
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Still serving"):
                break
        address = said[0].split()[-1]
        assert not address.endswith(f":{port}")
        with urllib.request.urlopen(f"{address}/latest") as answer:  # noqa: S310
            assert "contact-sheet.png" in answer.read().decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    pictures = sorted(tmp_path.glob("*.png"))
    maps = sum(len(request.units) for request in demo.REQUESTS)
    shown = 3 + 2 * len(demo.REQUESTS) + maps
    assert len(pictures) == shown + 1
    assert [Image.open(file).size for file in pictures[:-1]] == [(128, 128)] * shown


def test_a_control_that_changes_nothing_fails_the_demo():
    plain, other = Image.new("RGB", (8, 8), "grey"), Image.new("RGB", (8, 8), "white")
    with pytest.raises(demo.DemoError, match=r"differs from the plain picture by only 0\.00"):
        demo._check("a unit", plain, plain, 1, [other])
    with pytest.raises(demo.DemoError, match="0 detected maps instead of 1"):
        demo._check("a unit", plain, other, 1, [])
    demo._check("a unit", plain, other, 1, [other])
