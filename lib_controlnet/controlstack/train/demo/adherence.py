"""How well pictures follow their hints: `python -m controlstack.bench adherence`.

For each kind of ControlNet that is there: with the scene's own hint, with another scene's, without control,
and the ceiling, which is what the VAE leaves of the true picture; with the scene's caption and with an empty
prompt.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from controlstack.hosts.embedded import demo_models
from controlstack.image import Array
from controlstack.train.demo import control, dataset, files, readouts
from controlstack.train.demo.painter import Painter
from controlstack.train.demo.scenes import CLASSES, Scene, scene

_FIGURE = CLASSES.index("figure")
_LINES = ("#4477aa", "#cc6677", "#117733", "#999933", "#882255")
"""Colours that all eyes tell apart, after Paul Tol."""
_COLUMNS = ("own hint", "other hint", "no control", "ceiling", "true pictures")
Score = Callable[[Sequence[Array], Sequence[Scene]], float]
"""How well pictures agree with as many scenes."""


@dataclass(frozen=True)
class Kind:
    """A kind of control, and a measure of how well pictures agree with scenes."""

    name: str
    measure: str
    score: Score
    suits: Callable[[Scene], bool] = lambda _: True
    """Which scenes have what it controls."""


def kinds(reader: readouts.Reader) -> dict[str, Kind]:
    """All that can be measured, by the names of the results.

    Depth is compared beyond what scenes have in common: below is near in most of them, so that any two agree
    with a rank correlation of 0.45. Without that mean, as meteorologists compare fields, it is 0.08.
    """
    common = readouts.cells(np.mean([scene(number).depth for number in range(400)], 0))

    def depth(picture: Array, truth: Scene) -> float:
        found, wanted = reader.read(picture[None])[0][0], readouts.cells(truth.depth)
        return readouts.rank_correlation(found - common, wanted - common)

    def classes(pictures: Sequence[Array], truths: Sequence[Scene]) -> float:
        found = reader.read(np.stack(pictures))[1]
        return readouts.mean_iou(found, readouts.cells(np.stack([truth.classes for truth in truths])))

    def figures(picture: Array, truth: Scene) -> float:
        ours, theirs = reader.read(picture[None])[1][0] == _FIGURE, readouts.cells(truth.classes) == _FIGURE
        return float((ours & theirs).sum() / (ours | theirs).sum())

    by_scene = _each(lambda picture, truth: classes([picture], [truth]))
    figure = "IoU of figures, where there are some"
    return {
        "canny": Kind("canny", f"edge F1 at {readouts.REACH:.0f} px", _each(_edges)),
        "depth": Kind("depth", "rank correlation of depth beyond the mean depth", _each(depth)),
        "segmentation": Kind("segmentation", "mean IoU of classes", classes),
        "segmentation by scene": Kind("segmentation", "mean IoU of the classes of one scene", by_scene),
        "openpose": Kind("openpose", figure, _each(figures), lambda truth: bool(truth.people)),
    }


def _each(score: Callable[[Array, Scene], float]) -> Score:
    """The mean of a score of single pictures."""
    return lambda pictures, truths: _mean(map(score, pictures, truths))


def unit(kind: str, truth: Scene) -> dict[str, Any]:
    """A unit whose hint is this scene's; canny finds its edges itself, the others are handed their maps."""
    module, picture = ("canny", truth.picture) if kind == "canny" else ("none", control.hint(kind, truth))
    return {"model": demo_models.controlnet(kind), "module": module, "image": picture}


def _edges(picture: Array, truth: Scene) -> float:
    return readouts.edge_f1(dataset.edges(picture) > 0, dataset.edges(truth.picture) > 0)


class Paint:
    """Pictures for measuring, each made once."""

    def __init__(self, painter: Painter) -> None:
        self.reconstructed = painter.reconstruct
        self._painter = painter
        self._made: dict[tuple[object, ...], Array] = {}

    def __call__(
        self, prompt: str, seed: int, kind: str = "", truth: Scene | None = None, weight: float = 1
    ) -> Array:
        """Under this kind's hint of a scene; without any where the weight is 0."""
        key = (prompt, seed, kind, truth and truth.caption, weight) if weight else (prompt, seed)
        if key not in self._made:
            units = [{**unit(kind, truth), "weight": weight}] if truth is not None and weight else []
            self._made[key] = self._painter(prompt, units, seed=seed)
        return self._made[key]


def held_out(kind: Kind, count: int) -> list[Scene]:
    """The first scenes of those never trained on that suit a kind."""
    every = (scene(number) for number in itertools.count(dataset.HELD_OUT))
    return list(itertools.islice(filter(kind.suits, every), count))


def measure(paint: Paint, kind: Kind, count: int, weights: Sequence[float]) -> dict[str, Any]:
    """Scores over `count` held-out scenes, the other hint being the next one's; with and without prompts."""
    scenes = held_out(kind, count)
    others = scenes[1:] + scenes[:1]
    result: dict[str, Any] = {
        "measure": kind.measure,
        "scenes": count,
        "true pictures": kind.score([one.picture for one in scenes], scenes),
        "ceiling": kind.score([paint.reconstructed(one.picture) for one in scenes], scenes),
        "prompts": {},
    }
    for prompts in ("full", "empty"):
        asked = [one.caption if prompts == "full" else "" for one in scenes]
        made = [paint(asked[n], n, kind.name, one) for n, one in enumerate(scenes)]
        result["prompts"][prompts] = {
            "own hint": kind.score(made, scenes),
            "other hint": kind.score(made, others),
            "no control": kind.score([paint(prompt, n) for n, prompt in enumerate(asked)], scenes),
        }
    few = scenes[: max(1, count // 4)]
    result["weights"] = {
        weight: kind.score([paint(one.caption, n, kind.name, one, weight) for n, one in enumerate(few)], few)
        for weight in weights
    }
    return result


def prompt_colours(paint: Paint, kind: Kind, count: int) -> float:
    """The share of pictures that show the colour asked for: six in turn, each hint held fixed."""
    single = [one for one in held_out(kind, 8 * count) if len(one.objects) == 1][:count]
    right = []
    for number, one in enumerate(single):
        ((was, _),) = one.objects
        for colour in readouts.HUES:
            prompt = _asking(one.caption, was, colour)
            made = paint(prompt, number, kind.name, one)
            right.append(readouts.strongest_colour(made) == colour)
    return _mean(right)


def _asking(caption: str, was: str, colour: str) -> str:
    """The caption of one object with another colour, in neutral light."""
    article = "an" if colour == "orange" else "a"
    plain = caption.replace("evening light", "daylight")
    return re.sub(f"an? {was}", f"{article} {colour}", plain).replace(f"in {was}", f"in {colour}")


def plot(results: Mapping[str, Any], file: Path) -> None:
    """Above, bars from 0 to 1 for each kind and prompt; below, how scores rise with the weight."""
    bars = {"own hint": "#4477aa", "other hint": "#cc3311", "no control": "#999999", "ceiling": "#dddddd"}
    rows = [(name, prompt) for name, one in results.items() for prompt in one["prompts"]]
    left, long, high = 300, 560, 200
    picture = Image.new("RGB", (left + long + 60, 40 + 74 * len(rows) + high + 60), "white")
    draw = ImageDraw.Draw(picture)
    for place, (bar, colour) in enumerate(bars.items()):
        draw.rectangle((left + 110 * place, 12, left + 110 * place + 10, 22), colour)
        draw.text((left + 110 * place + 16, 10), bar, "black")
    for row, (name, prompt) in enumerate(rows):
        top = 40 + 74 * row
        values = {**results[name]["prompts"][prompt], "ceiling": results[name]["ceiling"]}
        draw.text((10, top), f"{name}, {prompt} prompt", "black")
        draw.text((10, top + 16), results[name]["measure"], "#666666")
        for place, (bar, colour) in enumerate(bars.items()):
            end = left + long * max(0.0, values[bar])
            draw.rectangle((left, top + 15 * place, end, top + 15 * place + 11), colour)
            draw.text((end + 6, top + 15 * place), f"{values[bar]:.2f}", "black")
    foot = picture.height - 30
    draw.line((left, foot, left + long, foot), "black")
    draw.text((10, foot - high - 20), "scores over the weight", "black")
    for place, (name, result) in enumerate(results.items()):
        colour = _LINES[place % len(_LINES)]
        points = [(float(weight), value) for weight, value in result["weights"].items()]
        draw.line([(left + long * w, foot - high * max(0.0, value)) for w, value in points], colour, 2)
        numbers = "  ".join(f"{value:.2f}" for _, value in points)
        draw.text((10, foot - high + 16 * place), f"{name}: {numbers}", colour)
        for weight, _ in points:
            draw.text((left + long * weight - 8, foot + 6), f"{weight:g}", "black")
    picture.save(file)


def table(results: Mapping[str, Any]) -> str:
    lines = [
        f"| kind | measure | prompt | {' | '.join(_COLUMNS)} | asked colour appears |",
        "|---" * (4 + len(_COLUMNS)) + "|",
    ]
    for name, result in results.items():
        for prompt, values in result["prompts"].items():
            numbers = {**result, **values}
            cells = " | ".join(f"{numbers[column]:.2f}" for column in _COLUMNS)
            colours = f"{result['prompt colours']:.0%}" if prompt == "full" else ""
            lines.append(f"| {name} | {result['measure']} | {prompt} | {cells} | {colours} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and write adherence.json, adherence.md and adherence.png, anew after each kind."""
    parser = argparse.ArgumentParser(prog="python -m controlstack.bench adherence", description=__doc__)
    parser.add_argument("kinds", nargs="*", help="only these")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--models", type=Path, default=demo_models.FOLDER)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    paint = Paint(Painter(asked.models, asked.steps))
    all_kinds = kinds(readouts.load(asked.models / f"{files.READER}.safetensors"))
    present = {
        name: kind
        for name, kind in all_kinds.items()
        if demo_models.is_there(kind.name, asked.models) and kind.name in (asked.kinds or [kind.name])
    }
    weights = (0.0, 0.25, 0.5, 0.75, 1.0)
    results: dict[str, Any] = {}
    for name, kind in present.items():
        colours = prompt_colours(paint, kind, min(8, asked.scenes))
        results[name] = measure(paint, kind, asked.scenes, weights) | {"prompt colours": colours}
        _write(results, asked.out)
    sys.stdout.write(table(results))


def _write(results: Mapping[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "adherence.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / "adherence.md").write_text(table(results), encoding="utf-8")
    plot(results, out / "adherence.png")


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
