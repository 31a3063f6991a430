"""The page's JavaScript: syntax, ESLint's rules, its pure parts in Node, and that it agrees with Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from controlstack import pose
from controlstack.curve import Curve
from controlstack.errors import ControlError

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "javascript").glob("*.js"))
HERE = Path(__file__).parent
ESLINT = ("eslint@10.15.0", "@eslint/js@10.0.1")


def node(*arguments, seconds=60):
    program = shutil.which("node")
    if program is None:
        pytest.skip("there is no Node.js")
    return subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=seconds,
        cwd=ROOT,
        check=False,
    )


def test_every_file_is_a_script():
    assert FILES
    check = "for (const file of process.argv.slice(1)) new vm.Script(fs.readFileSync(file, 'utf8'), file)"
    done = node("-e", f"const fs = require('fs'), vm = require('vm'); {check}", *FILES)
    assert done.returncode == 0, done.stderr


def test_the_pure_parts():
    done = node("--test", *sorted(HERE.glob("*.test.js")))
    assert done.returncode == 0, done.stdout


def test_no_file_leaves_a_global_behind_but_one():
    """Hosts load the scripts of all extensions into one page."""
    load = "for (const file of process.argv.slice(1)) vm.runInThisContext(fs.readFileSync(file, 'utf8'))"
    program = f"const fs = require('fs'), vm = require('vm'), was = Object.keys(globalThis); {load};"
    program += "console.log(JSON.stringify(Object.keys(globalThis).filter((name) => !was.includes(name))))"
    done = node("-e", program, *reversed(FILES))  # and they may come in any order
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["controlstack"]


def test_python_reads_the_same_curves():
    for example in json.loads((HERE / "curves.json").read_text("utf-8")):
        if "written" in example:
            curve = Curve.parse(example["text"])
            assert str(curve) == example["written"]
            assert [curve.at(share) for share, _ in example["at"]] == pytest.approx(
                [factor for _, factor in example["at"]]
            )
        else:
            with pytest.raises(ControlError):
                Curve.parse(example["text"])


def test_python_draws_the_same_limbs_and_reads_the_same_poses():
    files = [ROOT / "javascript" / name for name in ("texts.js", "pose.js", "pose_figure.js")]
    program = "process.argv.slice(1).forEach((file) => require(file));"
    program += "const { pose, figure } = controlstack;"
    program += "const two = pose.withHand(pose.withPerson(pose.canvas(512, 768)), 0, 'left');"
    program += "console.log(JSON.stringify({ ...figure, pose: JSON.parse(pose.write(two)) }))"
    done = node("-e", program, *files)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["LIMBS"] == [list(limb) for limb in pose._LIMBS]
    assert said["COLOURS"] == [list(colour) for colour in pose._COLOURS]
    assert said["BONES"] == [list(bone) for bone in pose._BONES]
    assert said["ANIMAL_LIMBS"] == [[list(limb), list(colour)] for limb, colour in pose._ANIMAL_LIMBS.items()]
    read = pose.parse(said["pose"])
    assert (read.width, read.height) == (512, 768)
    assert [len(part) for part in (read.people[0].body, read.people[0].left_hand)] == [18, 21]


def test_every_text_has_its_chinese():
    texts = ROOT / "javascript/texts.js"
    program = "require(process.argv[1]); const { ENGLISH, BODY } = controlstack.texts;"
    program += "console.log(JSON.stringify([...Object.values(ENGLISH), ...BODY]))"
    done = node("-e", program, texts)
    assert done.returncode == 0, done.stderr
    chinese = json.loads((ROOT / "localizations/zh_CN.json").read_text("utf-8"))
    for english in json.loads(done.stdout):
        holes = [sorted(re.findall(r"\{\w+\}", text)) for text in (english, chinese.get(english, ""))]
        assert chinese.get(english), english
        assert holes[0] == holes[1], english


def test_eslint_finds_nothing():
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("there is no npx")
    packages = [argument for package in ESLINT for argument in ("--package", package)]
    quick = {"fetch_retries": "0", "fetch_timeout": "20000", "prefer_offline": "true"}
    config = ["--config", str(HERE / "eslint.config.cjs")]
    done = subprocess.run(
        [npx, "--yes", *packages, "--", "eslint", *config, "javascript", "tests/javascript"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=180,
        cwd=ROOT,
        env={**os.environ, **{f"npm_config_{name}": value for name, value in quick.items()}},
        check=False,
    )
    failures = re.findall(r"^npm (?:error|ERR!) (.*)", done.stderr, re.MULTILINE)
    if failures:
        pytest.skip(f"npm cannot bring ESLint: {failures[0]}")
    assert done.returncode == 0, done.stdout + done.stderr
