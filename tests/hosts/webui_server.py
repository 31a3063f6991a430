"""A real A1111 as a process, and a client for it.

CONTROLSTACK_WEBUI_DIR   the WebUI's folder, with a Python environment in `venv` and a checkpoint of width
                         32 and context 768 (SD1's blocks) in `models/Stable-diffusion`.
                         `COMMANDLINE_ARGS` and the rest of the environment reach it
CONTROLSTACK_WEBUI_URL   a WebUI that runs already, started so:
                         CONTROLSTACK_WEBUI_DIR=... python tests/hosts/webui_server.py PORT FOLDER
CONTROLSTACK_WEBUI_FOLDER   and that FOLDER, which holds its control files and what it writes
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from control_server import Host

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
URL, DIR = os.environ.get("CONTROLSTACK_WEBUI_URL"), os.environ.get("CONTROLSTACK_WEBUI_DIR")
ABSENT = "needs a real WebUI: CONTROLSTACK_WEBUI_URL or CONTROLSTACK_WEBUI_DIR"
NAME = "sd-webui-controlnet-stack"
PUBLISHED_HINT = (16, 32, 96, 256)
"""The hint's channels in every published ControlNet: Forge's built-in reads files with no other."""
KNOWN_TO_FORGE = {
    "Control-LoRA": "tiny_control_lora",
    "ControlNet-LLLite": "tiny_lllite",
    "T2I-Adapter": "tiny_t2i_adapter",
}
"""Families beside ControlNet that Forge's built-in reads, and the files of them."""
FLAGS = ["--api", "--skip-prepare-environment", "--skip-install", "--no-download-sd-model"]
OFF = ("live_previews_enable", "samples_save", "grid_save", "return_grid")
SETTINGS = {**dict.fromkeys(OFF, False), "batch_cond_uncond": True, "skip_early_cond": 0.0}
"""A1111 gives back after a job only what its settings file names."""


def prepare(folder: Path, extensions: Sequence[Path]) -> None:
    """The data folder of a WebUI with these extensions beside the watch."""
    own = folder / "extensions"
    own.mkdir(parents=True)
    for extension in extensions:
        (own / (NAME if extension == ROOT else extension.name)).symlink_to(extension)
    (folder / "config.json").write_text(json.dumps(SETTINGS))


def start(port: int, folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    webui = Path(str(DIR))
    python = webui / "venv" / "bin" / "python"
    command = [python, "launch.py", *FLAGS, "--port", str(port), "--data-dir", folder]
    command += ["--models-dir", webui / "models", "--controlnet-dir", folder / "controls"]
    command += ["--controlnet-preprocessor-models-dir", folder / "preprocessors", *flags]
    environment = {**os.environ, "CONTROLSTACK_WATCH": str(folder), "OMP_NUM_THREADS": "1"}
    environment["IGNORE_CMD_ARGS_ERRORS"] = "1"  # without the extension nobody knows its flags
    environment.pop("PYTHONPATH", None)
    with (folder / "log.txt").open("w") as log:
        return subprocess.Popen(list(map(str, command)), cwd=webui, stdout=log, stderr=log, env=environment)


@contextmanager
def serving(folder: Path, *flags: str, extensions: Sequence[Path] = (ROOT,)) -> Iterator[Host]:
    """A WebUI of its own with this extension and the watch, or with others."""
    if not DIR:
        pytest.skip("needs a WebUI that can be started: CONTROLSTACK_WEBUI_DIR")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    prepare(folder, [*extensions, HERE / "webui_watch"])
    process = start(port, folder, *flags)
    try:
        yield wait_for(f"http://127.0.0.1:{port}", folder, process)
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url: str, folder: Path, process: subprocess.Popen[bytes] | None, seconds: float = 900) -> Host:
    """A client, once the checkpoint is loaded."""
    host = Host(url, folder)
    host.session = httpx.Client(
        base_url=url, timeout=300, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
    )
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            raise AssertionError("The WebUI ended:\n" + (folder / "log.txt").read_text()[-3000:])
        try:
            if (process is None or _has_started(folder)) and host.session.get("/watch").status_code == 200:
                return host
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"The WebUI does not answer after {seconds} s")


def _has_started(folder: Path) -> bool:
    """A request while A1111 still adds its routes breaks the start: "Cannot add middleware"."""
    return "\nStartup time" in (folder / "log.txt").read_text(errors="replace")


@contextmanager
def running(folder: Path) -> Iterator[Host]:
    """The WebUI that the environment names, else one of its own."""
    if URL:
        yield wait_for(URL, Path(os.environ.get("CONTROLSTACK_WEBUI_FOLDER", folder)), None)
    else:
        write_models(folder / "controls")
        with serving(folder) as host:
            yield host


def write_models(folder: Path) -> None:
    """Control files for bases of width 32 and context 768, for narrow SD2 and SDXL ones, and for another."""
    import nets

    sys.path.insert(0, str(HERE.parent / "families"))
    from stage import TINY

    sd2 = nets.SD2 | dict(block_out_channels=(64, 128, 256, 256), attention_head_dim=(1, 2, 4, 4))
    sizes = dict(addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)
    sdxl = nets.SDXL | dict(cross_attention_dim=2048) | sizes

    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(3):
        net = nets.controlnet(nets.SD1, seed=seed, hint=PUBLISHED_HINT)
        tensors = nets.in_ldm(net.state_dict(), "control_model.")
        nets.save(folder / f"net{seed}.safetensors", tensors)
    for name, config in (("sd2", sd2), ("sdxl", sdxl)):
        nets.save(folder / f"{name}.safetensors", nets.controlnet(config).state_dict())
    nets.LAYOUTS["webui"] = nets.SD1
    for family, name in KNOWN_TO_FORGE.items():
        nets.save(folder / f"{name}.safetensors", TINY[family].tensors("webui", 0))
    nets.save(folder / "other.safetensors", nets.controlnet(nets.SDXL).state_dict())


def main(port: str, folder: str, *flags: Any) -> int:
    """Run a WebUI for `CONTROLSTACK_WEBUI_URL` until it is ended."""
    prepare(Path(folder), [ROOT, HERE / "webui_watch"])
    write_models(Path(folder) / "controls")
    return start(int(port), Path(folder), *flags).wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
