"""The demo models do what control promises, measured by fixed read-outs on held-out scenes.

Each number has slack to what `python -m controlstack.bench adherence` measures with more scenes and steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from controlstack import bench, family, weights
from controlstack.hosts import unet_diffusers
from controlstack.hosts.embedded import demo_models
from controlstack.image import Array
from controlstack.train.demo import adherence, control, dataset, readouts, scenes, sheets
from controlstack.train.demo.files import READER
from controlstack.train.demo.painter import Painter
from controlstack.train.demo.scenes import Scene

KINDS = [kind for kind in control.HINTS if demo_models.is_there(kind)]
COUNT = 4
WIDE = (16, 17, 37, 39)
"""Scenes with something in both halves."""
LEFT, RIGHT = slice(0, 60), slice(68, 128)


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
    return readouts.edge_f1(edges_of(picture), edges_of(truth.picture))


def edges_of(picture: Array) -> readouts.Mask:
    return dataset.edges(picture) > 0


def canny(truth: Scene, **fields: Any) -> Mapping[str, Any]:
    return {**adherence.unit("canny", truth), **fields}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_says_what_it_is(paint: Painter, kind: str) -> None:
    file = demo_models.FOLDER / demo_models.CONTROLNETS / f"{demo_models.controlnet(kind)}.safetensors"
    match = family.recognise(weights.read_header(file))
    assert match.family.name == "ControlNet"
    assert match.base.mismatch(unet_diffusers.base_of(paint.unet)) is None


def test_all_models_together_stay_small() -> None:
    """48 MB is what the repository gives the base and its ControlNets."""
    controls = (demo_models.FOLDER / demo_models.CONTROLNETS).glob("*.safetensors")
    models = [demo_models.FOLDER / f"{demo_models.BASE}.safetensors", *controls]
    assert len(models) == 1 + len(control.HINTS)
    assert sum(file.stat().st_size for file in models) <= 48e6


def test_canny_is_followed_and_another_hint_is_not(paint: Painter) -> None:
    made = [paint(held_out(n).caption, [canny(held_out(n))], seed=n) for n in range(COUNT)]
    own = np.mean([follows(made[n], held_out(n)) for n in range(COUNT)])
    other = np.mean([follows(made[n], held_out(n + 1)) for n in range(COUNT)])
    assert own > 0.5
    assert other < own / 3


@pytest.mark.parametrize(("kind", "least"), [("depth", 0.6), ("segmentation", 0.6)])
def test_depth_and_classes_are_followed(paint: Painter, kind: str, least: float) -> None:
    """As read by a small net, against the scene's own and against the next scene's; without prompts."""
    reader = readouts.load(demo_models.FOLDER / f"{READER}.safetensors")
    score = adherence.kinds(reader)[kind].score
    made = [paint("", [adherence.unit(kind, held_out(n))], seed=n) for n in WIDE]
    own, other = (score(made, [held_out(n + off) for n in WIDE]) for off in (0, 1))
    assert own > least
    assert own > 3 * other


def test_figures_take_their_pose(paint: Painter) -> None:
    reader = readouts.load(demo_models.FOLDER / f"{READER}.safetensors")
    pose = adherence.kinds(reader)["openpose"]
    people = adherence.held_out(pose, COUNT)
    made = [paint(one.caption, [adherence.unit("openpose", one)], seed=n) for n, one in enumerate(people)]
    own, other = pose.score(made, people), pose.score(made, people[-1:] + people[:-1])
    assert own > 0.35
    assert own > 3 * other


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
    """In its half the hint is followed; in the other its edges appear no more often than by chance."""
    inside, outside, everywhere = [], [], []
    for n in WIDE:
        truth = held_out(n)
        halved = edges_of(paint("", [canny(truth, effective_region_mask=sheets.half("left"))], seed=n))
        whole = edges_of(paint("", [canny(truth)], seed=n))
        wanted = edges_of(truth.picture)
        inside.append(readouts.edge_f1(halved[:, LEFT], wanted[:, LEFT]))
        outside.append(readouts.edge_f1(halved[:, RIGHT], wanted[:, RIGHT]))
        everywhere.append(readouts.edge_f1(whole[:, RIGHT], wanted[:, RIGHT]))
    assert np.mean(inside) > 0.5
    assert np.mean(everywhere) > 0.5
    assert np.mean(outside) < np.mean(everywhere) / 2


def test_two_units_rule_their_halves(paint: Painter) -> None:
    scores = []
    for n, m in zip(WIDE, reversed(WIDE), strict=True):
        one, other = held_out(n), held_out(m)
        units = [
            canny(one, effective_region_mask=sheets.half("left")),
            canny(other, effective_region_mask=sheets.half("right")),
        ]
        found = edges_of(paint("", units, seed=n))
        wanted = [edges_of(truth.picture) for truth in (one, other)]
        scores.append(
            [readouts.edge_f1(found[:, half], edges[:, half]) for half in (LEFT, RIGHT) for edges in wanted]
        )
    one_left, other_left, one_right, other_right = np.mean(scores, axis=0)
    assert one_left > 2 * other_left
    assert other_right > 2 * one_right


def test_the_prompt_still_chooses_colours(paint: Painter) -> None:
    """One hint, a large sphere before a wall, and each colour in turn; one of six may be missed."""
    truth = next(s for s in map(held_out, range(200)) if _is_a_large_sphere(s))
    found = {
        name: readouts.strongest_colour(
            paint(f"a {name} sphere before a grey wall, daylight", [canny(truth)], seed=3)
        )
        for name in readouts.HUES
    }
    assert sum(name == seen for name, seen in found.items()) >= 5, found


def _is_a_large_sphere(one: Scene) -> bool:
    sphere = one.classes == scenes.CLASSES.index("sphere")
    return [kind for _, kind in one.objects] == ["sphere"] and "wall" in one.caption and sphere.sum() > 1800


def test_the_benchmark_writes_its_numbers_and_a_plot(tmp_path: Path) -> None:
    """One scene and two steps: the ceiling is a number of the VAE alone, and weight 0 is no control."""
    bench.main(["adherence", "canny", "--scenes", "1", "--steps", "2", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "adherence.json").read_text(encoding="utf-8"))["canny"]
    assert result["true pictures"] == 1
    assert result["ceiling"] > 0.7
    assert result["weights"]["0.0"] == result["prompts"]["full"]["no control"]
    assert result["weights"]["1.0"] == result["prompts"]["full"]["own hint"]
    assert "| canny | edge F1 at 2 px | empty |" in (tmp_path / "adherence.md").read_text(encoding="utf-8")
    assert Image.open(tmp_path / "adherence.png").width > 700
