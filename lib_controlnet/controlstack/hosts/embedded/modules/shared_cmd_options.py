"""The command line. Extensions add their own flags to `parser` in their preload.py, before it is parsed."""

from __future__ import annotations

import argparse
from pathlib import Path

from controlstack.hosts.embedded import precision

ROOT = Path(__file__).resolve().parents[5]
"""The extension's own folder."""


def passwords(text: str) -> str:
    """ "user:password,user:password", as it stands."""
    if not all(":" in pair.strip(":") for pair in text.split(",")):
        raise argparse.ArgumentTypeError("give USER:PASS, or several of them with commas between")
    return text


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
parser.add_argument(
    "--dtype", choices=precision.DTYPES, help="how precisely to compute; else fp16 on cuda and fp32 elsewhere"
)
memory = parser.add_mutually_exclusive_group()
memory.add_argument("--medvram", action="store_true", help="keep each net off the card while it is idle")
memory.add_argument("--lowvram", action="store_true", help="bring single layers to the card; slow")
parser.add_argument("--nowebui", action="store_true", help="no page to paint on, only the HTTP API")
parser.add_argument(
    "--api-auth", type=passwords, metavar="USER:PASS[,USER:PASS]", help="let in only who knows one of these"
)
parser.add_argument("--controlnet-dir", type=Path, help="a folder with control models")
parser.add_argument("--data-dir", type=Path, default=ROOT, help="holds models/, outputs/ and extensions/")
parser.add_argument("--output-dir", type=Path, help="where pictures go instead, and what the page shows")

cmd_opts = argparse.Namespace()
