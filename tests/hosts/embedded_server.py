"""The embedded host as a process of its own, and a client for it."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
JOB = {"prompt": "a cat", "negative_prompt": "blurry", "seed": 5, "steps": 3, "width": 64, "height": 96}


class Failed(Exception):  # noqa: N818  pytest.raises(Failed) reads well
    """An answer that is no success."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


class Answer:
    """The pictures and the facts of an answer; `record` is what the probe script saw."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.pictures = [Image.open(io.BytesIO(base64.b64decode(picture))) for picture in body["images"]]
        self.arrays = [np.asarray(picture.convert("RGB")).astype(int) for picture in self.pictures]
        self.info = json.loads(body["info"])
        self.parameters = body["parameters"]
        self.probe = self.info["extra_generation_params"].get("probe", {})
        self.record = self.probe.get("record", [])

    def hooks(self) -> list[str]:
        return [name for name, *_ in self.record]

    def of(self, hook: str) -> list[list[Any]]:
        return [facts for name, *facts in self.record if name == hook]


class Client:
    def __init__(self, address: str, data: Path, login: str = "") -> None:
        self.address, self.data = address, data
        self.headers = {"Content-Type": "application/json"}
        if login:
            self.headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()

    def ask(self, path: str, body: Any = None) -> Any:
        """The answer's JSON, or its text. Raises Failed."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, self.headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            raise Failed(error.code, json.loads(error.read())) from error
        return text if text.startswith("<") else json.loads(text)

    def txt2img(self, probe: dict[str, Any] | None = None, **fields: Any) -> Answer:
        scripts = {"probe": {"args": [{} if probe is None else probe]}}
        return Answer(self.ask("/sdapi/v1/txt2img", {**JOB, "alwayson_scripts": scripts, **fields}))

    def img2img(self, picture: Image.Image, probe: dict[str, Any] | None = None, **fields: Any) -> Answer:
        scripts = {"Probe": {"args": [{} if probe is None else probe]}}
        body = {**JOB, "init_images": [encoded(picture)], "alwayson_scripts": scripts, **fields}
        return Answer(self.ask("/sdapi/v1/img2img", body))


def encoded(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@contextmanager
def running(data: Path, *options: str, page: bool = False, login: str = "") -> Iterator[Client]:
    """Start the host with the probe script among its extensions; end it afterwards.

    `login`: "user:password" that the host asks for, and the client gives.
    """
    (data / "extensions/probe/scripts").mkdir(parents=True)
    shutil.copy(HERE / "probe_script.py", data / "extensions/probe/scripts/probe.py")
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
        str(data),
    ]
    command += [*([] if page else ["--nowebui"]), *(["--api-auth", login] if login else [])]
    path = os.pathsep.join([str(HERE.parents[1] / "lib_controlnet"), os.environ.get("PYTHONPATH", "")])
    with (data / "log.txt").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log, env=environment)
        try:
            client = Client(f"http://127.0.0.1:{port}", data, login)
            wait_for(client, process)
            yield client
        finally:
            process.terminate()
            process.wait(30)


def wait_for(client: Client, process: subprocess.Popen[bytes], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError("The host ended:\n" + (client.data / "log.txt").read_text())
        try:
            client.ask("/sdapi/v1/progress")
        except urllib.error.URLError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"The host does not answer after {seconds} s")
