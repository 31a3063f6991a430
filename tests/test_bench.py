"""The benchmark on a tiny checkpoint: what each case does is exact; how long it takes is not asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from controlstack import bench
from controlstack.bench import Measured, Setting

ROOT = Path(__file__).parents[1]
SIZE, STEPS, ROUNDS = 64, 2, 2
SETTING = Setting("tiny", SIZE, STEPS, ROUNDS, "cpu", "fp32")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench")
    chosen = dict(base="tiny", size=SIZE, steps=STEPS, rounds=ROUNDS, device="cpu", dtype="fp32", out=out)
    flags = [text for name, value in chosen.items() for text in (f"--{name}", str(value))]
    paths = os.pathsep.join([str(ROOT / "lib_controlnet"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "controlstack.bench", *flags],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout == (out / "results.md").read_text(encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_every_case_is_timed_in_every_round(out: Path, results: dict[str, Any]) -> None:
    assert list(results["cases"]) == [case.name for case in bench.CASES]
    for one in results["cases"].values():
        assert len(one["wall"]) == len(one["cpu"]) == ROUNDS
        assert min(one["wall"]) > 0
    for name in results["cases"]:
        assert f"| {name} |" in (out / "results.md").read_text(encoding="utf-8")
    with Image.open(out / "added.png") as plot:
        assert (
            len(plot.convert("RGB").getcolors(plot.width * plot.height)) >= 4
        )  # paper, ink, and two kinds of bars


def test_networks_are_called_only_where_control_acts(results: dict[str, Any]) -> None:
    """By hand: with CFG a pass of 2 steps is 2 evaluations of 2 rows; half of it is one evaluation."""
    called = {name: (one["calls"], one["rows"]) for name, one in results["cases"].items()}
    assert called == {
        "plain": (0, 0),
        "1 unit": (2, 4),
        "3 units, 3 files": (6, 12),
        "3 units, 1 file": (6, 12),
        "ControlNet is more important": (2, 2),
        "window 0-0.5": (1, 2),
        "outside its window": (0, 0),
        "weight 0": (0, 0),
        "diffusers: 1 net": (2, 4),
        "diffusers: 3 nets": (6, 12),
        "diffusers: guess mode": (2, 2),
    }


def test_both_sides_make_the_same_picture(results: dict[str, Any]) -> None:
    shift = {name: one["shift"] for name, one in results["cases"].items()}
    still = {"plain", "weight 0", "outside its window"}
    assert {name for name, by in shift.items() if by == 0} == still
    assert min(by for name, by in shift.items() if name not in still) > 0.01
    assert shift["1 unit"] == pytest.approx(shift["diffusers: 1 net"], rel=1e-4)
    assert shift["3 units, 3 files"] == pytest.approx(shift["diffusers: 3 nets"], rel=1e-4)


def test_operations_differ_by_the_hint_encoder_alone(results: dict[str, Any]) -> None:
    """diffusers embeds the hint for each row of each evaluation, a unit embeds it once in a pass."""
    widths = [(3, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 2), (32, 96, 4), (96, 96, 4), (96, 256, 8)]
    convolutions = [*widths, (256, 32, 8)]  # channels in and out, and by what the picture is reduced
    hint = sum(2 * 3 * 3 * a * b * (SIZE // by) ** 2 for a, b, by in convolutions)
    flops = {name: one["flops"] for name, one in results["cases"].items()}
    assert flops["weight 0"] == flops["plain"]
    assert flops["outside its window"] in {flops["plain"], flops["plain"] + hint}
    assert flops["diffusers: 1 net"] - flops["1 unit"] == (2 * STEPS - 1) * hint
    assert flops["diffusers: 3 nets"] - flops["3 units, 1 file"] == 3 * (2 * STEPS - 1) * hint


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak")
def test_peaks_of_memory(results: dict[str, Any]) -> None:
    peaks = {name: peak["RSS"] for name, peak in results["memory"].items()}
    assert set(peaks) == {case.name for case in bench.CASES if case.memory}
    assert all(peaks["plain"] < peak for name, peak in peaks.items() if name != "plain")
    assert results["file"] > 1e6


def test_tables_of_made_up_numbers() -> None:
    """Plain passes of 10 s and 20 s; control adds a fifth, diffusers' control a quarter."""
    seconds = {"plain": (10.0, 20.0), "1 unit": (12.0, 24.0), "diffusers: 1 net": (12.5, 25.0)}
    cases = {case.name: Measured(0, 0, 100, wall=[11.0, 22.0]) for case in bench.CASES}
    cases |= {name: Measured(2, 4, 100, wall=list(taken)) for name, taken in seconds.items()}
    cases["1 unit"].flops = 130
    assert bench.added(cases, "1 unit", "wall") == pytest.approx([0.2, 0.2])
    rows = {line.split(" | ")[0]: line for line in bench.time_table(cases, SETTING, "wall").splitlines()}
    same, expected = "{0} ({0} to {0}); {0}", "| 1 unit | 9 | 2 | 0.300 | {} |  | {} |"
    assert rows["| 1 unit"] == expected.format(same.format("0.200"), same.format("0.800"))
    assert rows["| weight 0"].split(" | ")[5] == same.format("0.500")
    table = bench.memory_table({"plain": {"RSS": 2**30}, "1 unit": {"RSS": 2**30 + 2**28}}, 2**27)
    assert table.splitlines()[2:] == ["| plain | RSS | 1024 | 0.00 |", "| 1 unit | RSS | 1280 | 2.00 |"]
    assert bench.quartiles([5, 1, 2, 4, 3]) == [2, 3, 4]
