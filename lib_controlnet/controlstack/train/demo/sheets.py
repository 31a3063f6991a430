"""Contact sheets of what control does, for README and docs: `python -m controlstack.train.demo sheets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from controlstack.hosts.embedded import demo_models
from controlstack.hosts.embedded.contact_sheet import contact_sheet
from controlstack.image import Array
from controlstack.train.demo import adherence, control, dataset
from controlstack.train.demo.painter import Painter
from controlstack.train.demo.scenes import Scene, scene
from controlstack.train.demo.solids import SIZE

FOLDER = Path(__file__).resolve().parents[4] / "docs" / "images"
SHOWN = {"canny": 16, "depth": 19, "segmentation": 4, "openpose": 13}
HALVES = (16, 17)
"""Held-out scenes that the sheets show."""
_PROMPT = "a yellow box and a red sphere before a grey wall, daylight"
MODES = ("Balanced", "My prompt is more important", "ControlNet is more important")

Cell = tuple[str, Image.Image]


def make(folder: Path = FOLDER, models: Path = demo_models.FOLDER) -> list[Path]:
    """Write all sheets; returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    paint = Painter(models)
    kinds = [kind for kind in control.HINTS if demo_models.is_there(kind, models)]
    sheets = {"weights": _weights(paint, kinds), "units": _units(paint, kinds), "limits": _limits(paint)}
    written = []
    for name, cells in sheets.items():
        file = folder / f"demo-{name}.jpg"
        contact_sheet(list(cells)).save(file, quality=90)
        written.append(file)
    return written


def held_out(number: int) -> Scene:
    return scene(dataset.HELD_OUT + number)


def half(side: str) -> Array:
    """A region mask, "128 128": white on the left or on the right."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, slice(0, SIZE // 2) if side == "left" else slice(SIZE // 2, SIZE)] = 255
    return mask


def _weights(paint: Painter, kinds: list[str]) -> Iterator[Cell]:
    """For each kind its hint, then weights 0, 0.5 and 1, then another prompt."""
    for kind in kinds:
        number = SHOWN[kind]
        truth = held_out(number)
        unit = adherence.unit(kind, truth)
        yield f"{kind}: its hint", _picture(control.hint(kind, truth))
        for weight in (0.0, 0.5, 1.0):
            made = paint(truth.caption, [{**unit, "weight": weight}], seed=number)
            yield f"weight {weight:g}", _picture(made)
        yield "weight 1, empty prompt", _picture(paint("", [unit], seed=number))


def _units(paint: Painter, kinds: list[str]) -> Iterator[Cell]:
    """One unit, the other, both, each for its half of the picture."""
    left, right = map(held_out, HALVES)
    first, second = kinds[0], kinds[min(1, len(kinds) - 1)]
    one = {**adherence.unit(first, left), "effective_region_mask": half("left")}
    other = {**adherence.unit(second, right), "effective_region_mask": half("right")}
    yield f"{first}, for the left half", _picture(control.hint(first, left))
    yield f"{second}, for the right half", _picture(control.hint(second, right))
    for title, units in (("first unit", [one]), ("second unit", [other]), ("both units", [one, other])):
        yield title, _picture(paint(_PROMPT, units, seed=2))


def _limits(paint: Painter) -> Iterator[Cell]:
    """A window of steps, and the three modes."""
    truth = held_out(SHOWN["canny"])
    unit = adherence.unit("canny", truth)
    asked: dict[str, dict[str, Any]] = {
        "steps 0 to 0.3": {"guidance_end": 0.3},
        "steps 0.7 to 1": {"guidance_start": 0.7},
        **{mode: {"control_mode": mode} for mode in MODES},
    }
    for title, fields in asked.items():
        yield title, _picture(paint(truth.caption, [{**unit, **fields}], seed=SHOWN["canny"]))


def _picture(made: Array) -> Image.Image:
    return Image.fromarray(made).resize((256, 256), Image.Resampling.LANCZOS)
