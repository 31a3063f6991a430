"""One training in a folder: another process is told so, and what a killed one left is taken over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from training import Latents, base, quick

from controlstack.errors import ControlError
from controlstack.train import lock
from controlstack.train.trainer import train

HOLD = """
import sys, time
from pathlib import Path
from controlstack.train import lock
with lock.alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_training_is_told_and_a_killed_one_is_taken_over(tmp_path: Path):
    packages = str(Path(__file__).parents[2] / "lib_controlnet")
    hold = f"import sys; sys.path.insert(0, {packages!r}){HOLD}"
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            ControlError, match=f"is being trained in. Process {other.pid} of .* has not ended"
        ):
            train(base(), Latents(), tmp_path, quick())
        assert [file.name for file in tmp_path.iterdir()] == [lock.NAME]
        other.kill()
    train(base(), Latents(), tmp_path, quick(steps=1))
    assert not (tmp_path / lock.NAME).exists()


@pytest.mark.parametrize("left", ["", {"began": 0.0}], ids=["half written", "a number given again"])
def test_a_lock_that_nobody_holds_is_taken_over(tmp_path: Path, left: str | dict[str, float]):
    with lock.alone(tmp_path):
        written = json.loads((tmp_path / lock.NAME).read_text(encoding="utf-8"))
    (tmp_path / lock.NAME).write_text(left and json.dumps({**written, **left}), encoding="utf-8")
    with lock.alone(tmp_path), pytest.raises(ControlError, match="is being trained in"), lock.alone(tmp_path):
        pass
    assert not (tmp_path / lock.NAME).exists()


def test_what_another_machine_holds_is_left_alone(tmp_path: Path):
    """On a shared disk its processes cannot be seen."""
    (tmp_path / lock.NAME).write_text(json.dumps({"process": 1, "machine": "another", "began": 0.0}))
    with pytest.raises(ControlError, match="Process 1 of another"), lock.alone(tmp_path):
        pass
    assert (tmp_path / lock.NAME).exists()
