"""Where the shipped demo models lie; `controlstack.train.demo` makes them."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "demo_weights"
BASE = "controlstack-demo"
"""The base's name, and what other names begin with."""
CONTROLNETS, EXAMPLES = "ControlNet", "examples"
"""Folders beside the base."""


def controlnet(kind: str) -> str:
    """The name of the model of a kind: canny, depth …"""
    return f"{BASE}-{kind}"


def is_there(kind: str, folder: Path = FOLDER) -> bool:
    """Whether the model of this kind was made."""
    return (folder / CONTROLNETS / f"{controlnet(kind)}.safetensors").exists()
