"""The states of a training on disk: the folder `checkpoints` has one for each of the last few intervals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from controlstack.errors import ControlError
from controlstack.train.files import whole

KEPT = 2


class Checkpoints:
    """Those of the training in the folder `out`."""

    def __init__(self, out: Path) -> None:
        self._settings, self._states = out / "training.json", out / "checkpoints"

    def newest(self) -> int:
        """The step of the last one; 0 where there is none."""
        return max(self._steps(), default=0)

    def save(self, accelerator: Any, step: int) -> None:
        """Write the whole state, and remove the oldest one. All processes call it."""
        place = self._states / f"{step:07}"
        if accelerator.is_main_process and not place.exists():
            with whole(place) as unfinished:
                accelerator.save_state(str(unfinished))
            for old in sorted(self._steps())[:-KEPT]:
                shutil.rmtree(self._states / f"{old:07}")
        accelerator.wait_for_everyone()

    def load(self, accelerator: Any, step: int) -> None:
        """Put the state of that step back in place. All processes call it."""
        accelerator.load_state(str(self._states / f"{step:07}"))

    def begin(self, settings: dict[str, Any], *, resume: bool, write: bool) -> int:
        """The step to begin with. One of the processes writes down what the weights depend on.

        Raises ControlError if the folder has a training that is not to go on, or one with other settings.
        """
        first = self.newest()
        if first and not resume:
            raise ControlError(
                f"The folder {self._states.parent} has a training that came to step {first}",
                "It would be overwritten",
                "Add --resume to go on with it, or choose another folder",
            )
        told = json.loads(json.dumps(settings))
        if first:
            before = json.loads(self._settings.read_text(encoding="utf-8"))
            changed = sorted(
                name for name in told.keys() | before.keys() if told.get(name) != before.get(name)
            )
            if changed:
                raise ControlError(
                    f"The training cannot go on from step {first}",
                    "; ".join(f"{name} was {before.get(name)} and is {told.get(name)}" for name in changed),
                    "Give the same settings, or choose another folder to begin anew",
                )
        if write:
            with whole(self._settings) as file:
                file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        return first

    def _steps(self) -> list[int]:
        return [int(folder.name) for folder in self._states.glob("*") if folder.name.isdigit()]
