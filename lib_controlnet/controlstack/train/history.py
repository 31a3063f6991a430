"""The loss of every step, in `loss.csv` and as a picture, `loss.png`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from controlstack.train.files import whole

HEAD = ("step", "loss", "learning_rate")


class History:
    """What the training in the folder `out` came through up to the step `last`; later rows are dropped."""

    def __init__(self, out: Path, last: int) -> None:
        self._file, self._plot = out / "loss.csv", out / "loss.png"
        self.losses: list[float] = []
        rows = []
        if last and self._file.exists():
            with self._file.open(encoding="utf-8", newline="") as file:
                rows = [row for row in list(csv.reader(file))[1:] if len(row) == len(HEAD)][:last]
            self.losses = [float(row[1]) for row in rows]
        with whole(self._file) as part, part.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([HEAD, *rows])

    def add(self, losses: Sequence[float], rates: Sequence[float]) -> None:
        """Append the losses of the next steps, and their learning rates."""
        first = len(self.losses) + 1
        self.losses += losses
        with self._file.open("a", encoding="utf-8", newline="") as file:
            lines = zip(range(first, first + len(losses)), losses, rates, strict=True)
            csv.writer(file).writerows((step, f"{loss:.6g}", f"{rate:.6g}") for step, loss, rate in lines)

    def plot(self) -> None:
        """Draw the losses so far, and their running mean."""
        if self.losses:
            with whole(self._plot) as part:
                draw(self.losses).save(part, "PNG")


def smoothed(losses: Sequence[float]) -> list[float]:
    """The mean of each loss and its neighbours: on either side a fiftieth of the training, at least 5."""
    reach = max(5, len(losses) // 50)
    sums = np.cumsum([0.0, *losses])
    steps = np.arange(len(losses))
    start, end = np.maximum(0, steps - reach), np.minimum(len(losses), steps + reach + 1)
    means: list[float] = ((sums[end] - sums[start]) / (end - start)).tolist()
    return means


def draw(losses: Sequence[float]) -> Image.Image:
    """Dots are steps, the line is their running mean; ends at the 1st and the 99th percentile."""
    left, top, width, height = 70, 40, 760, 320
    picture = Image.new("RGB", (left + width + 30, top + height + 50), "white")
    canvas = ImageDraw.Draw(picture)
    lowest, highest = (float(end) for end in np.percentile(losses, (1, 99)))
    highest = max(highest, lowest + 1e-9)

    def at(step: int, loss: float) -> tuple[float, float]:
        share = (min(max(loss, lowest), highest) - lowest) / (highest - lowest)
        return left + width * step / max(1, len(losses) - 1), top + height * (1 - share)

    means = smoothed(losses)
    canvas.text((left, 12), f"Loss of {len(losses)} steps; {means[-1]:.4g} at the end", "black")
    for tick in range(5):
        value = lowest + (highest - lowest) * tick / 4
        y = at(0, value)[1]
        canvas.line((left, y, left + width, y), "#dddddd")
        canvas.text((8, y - 6), f"{value:.4g}", "black")
        step = round((len(losses) - 1) * tick / 4)
        canvas.text((at(step, lowest)[0] - 8, top + height + 10), str(step + 1), "black")
    for step in range(0, len(losses), max(1, len(losses) // 4000)):
        x, y = at(step, losses[step])
        canvas.rectangle((x - 1, y - 1, x + 1, y + 1), "#aac4e0")
    stride = max(1, len(losses) // width)
    line = [at(step, means[step]) for step in [*range(0, len(losses), stride), len(losses) - 1]]
    canvas.line(line, "#cc3311", 2)
    return picture
