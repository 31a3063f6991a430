"""The demo models do what control promises, measured by fixed read-outs on held-out scenes.

Each number has slack to what `python -m controlstack.bench adherence` measures with more scenes and steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from controlstack import family, weights
from controlstack.hosts import unet_diffusers
from controlstack.image import Array
from controlstack.train.demo import adherence, control, dataset, files, readouts, scenes, sheets
from controlstack.train.demo.painter import Painter
from controlstack.train.demo.scenes import Scene

KINDS = [kind for kind in control.HINTS if files.is_there(files.FOLDER, kind)]
COUNT = 4


@pytest.fixture(scope="module")
def paint() -> Iterator[Painter]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Painter(steps=10)
    torch.set_num_threads(threads)


@lru_cache
def held_out(number: int) -> Scene:
    return sheets.held_out(number)


def follows(picture: Array, truth: Scene) -> float:
    return readouts.edge_f1(dataset.edges(picture) > 0, dataset.edges(truth.picture) > 0)


def canny(truth: Scene, **fields: Any) -> Mapping[str, Any]:
    return {**adherence.unit("canny", truth), **fields}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_says_what_it_is(paint: Painter, kind: str) -> None:
    file = files.FOLDER / files.CONTROLNETS / f"{files.controlnet(kind)}.safetensors"
    match = family.recognise(weights.read_header(file))
    assert match.family.name == "ControlNet"
    assert match.base.mismatch(unet_diffusers.base_of(paint.unet)) is None


def test_all_files_together_stay_small() -> None:
    """48 MB is what the repository gives them."""
    assert sum(file.stat().st_size for file in files.FOLDER.rglob("*.safetensors")) <= 48e6


def test_canny_is_followed_and_another_hint_is_not(paint: Painter) -> None:
    made = [paint(held_out(n).caption, [canny(held_out(n))], seed=n) for n in range(COUNT)]
    own = np.mean([follows(made[n], held_out(n)) for n in range(COUNT)])
    other = np.mean([follows(made[n], held_out(n + 1)) for n in range(COUNT)])
    assert own > 0.5
    assert other < own / 3


def test_adherence_rises_with_the_weight(paint: Painter) -> None:
    scores = [
        np.mean(
            [
                follows(paint(held_out(n).caption, [canny(held_out(n), weight=weight)], seed=n), held_out(n))
                for n in range(COUNT)
            ]
        )
        for weight in (0.0, 0.5, 1.0)
    ]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] + 0.3


def test_a_window_before_the_first_step_is_exactly_no_control(paint: Painter) -> None:
    truth = held_out(1)
    plain = paint(truth.caption, seed=1)
    assert np.array_equal(paint(truth.caption, [canny(truth, guidance_end=0.0)], seed=1), plain)
    assert np.array_equal(paint(truth.caption, [canny(truth, weight=0.0)], seed=1), plain)


def test_a_unit_stays_inside_its_region(paint: Painter) -> None:
    """What it changes in its half is at least twice what spills over."""
    changes = []
    for n in range(COUNT):
        truth = held_out(n)
        plain = paint(truth.caption, seed=n).astype(float)
        unit = canny(truth, effective_region_mask=sheets.half("left"))
        changed = np.abs(paint(truth.caption, [unit], seed=n) - plain).mean((0, 2))
        changes.append((changed[:64].mean(), changed[64:].mean()))
    inside, outside = np.mean(changes, axis=0)
    assert inside > 2 * outside


def test_two_units_rule_their_halves(paint: Painter) -> None:
    left, right = slice(0, 60), slice(68, 128)
    scores = []
    for n in range(COUNT):
        one, other = held_out(n), held_out(n + 8)
        units = [
            canny(one, effective_region_mask=sheets.half("left")),
            canny(other, effective_region_mask=sheets.half("right")),
        ]
        found = dataset.edges(paint("", units, seed=n)) > 0
        wanted = [dataset.edges(truth.picture) > 0 for truth in (one, other)]
        scores.append(
            [readouts.edge_f1(found[:, half], edges[:, half]) for half in (left, right) for edges in wanted]
        )
    one_left, other_left, one_right, other_right = np.mean(scores, axis=0)
    assert one_left > 2 * other_left
    assert other_right > 2 * one_right


@pytest.mark.parametrize("colour", [name for name in scenes.COLOURS if name != "white"])
def test_the_prompt_still_chooses_colours(paint: Painter, colour: str) -> None:
    """One hint, a large sphere before a wall, and each colour in turn."""
    truth = next(s for s in map(held_out, range(200)) if _is_a_large_sphere(s))
    made = paint(f"a {colour} sphere before a grey wall, daylight", [canny(truth)], seed=3)
    shares = {name: readouts.colour_share(made, name) for name in scenes.COLOURS if name != "white"}
    assert max(shares, key=shares.__getitem__) == colour


def _is_a_large_sphere(one: Scene) -> bool:
    sphere = one.classes == scenes.CLASSES.index("sphere")
    return [kind for _, kind in one.objects] == ["sphere"] and "wall" in one.caption and sphere.sum() > 1800
