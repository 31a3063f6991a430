"""The command line. Extensions add their own flags to `parser` in their preload.py, before it is parsed."""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[5]
"""The extension's own folder."""

parser = argparse.ArgumentParser(
    prog="python -m controlstack.hosts.embedded",
    description="A thin Stable Diffusion WebUI around diffusers' pipelines, with ControlNet.",
)
parser.add_argument("--port", type=int, default=7861, help="serve on this port of 127.0.0.1")
parser.add_argument(
    "--ckpt", type=Path, help="a .safetensors or .ckpt checkpoint or a diffusers folder; else random nets"
)
parser.add_argument(
    "--prediction", choices=("eps", "v"), help="what the checkpoint predicts, where it does not say"
)
parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, cuda:1, mps")
parser.add_argument("--controlnet-dir", type=Path, help="a folder with control models")
parser.add_argument("--data-dir", type=Path, default=ROOT, help="holds models/, outputs/ and extensions/")
parser.add_argument("--output-dir", type=Path, help="where pictures go instead, and what the page shows")

cmd_opts = argparse.Namespace()
