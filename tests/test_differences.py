"""The formulas of docs/differences.md, the incumbent's and ours, side by side.

The incumbent's are written out after its behaviour in A1111 1.10 (version 1.1.455), not taken from its code.
"""

from __future__ import annotations

import pytest
import torch

from controlstack.joints import Call, Row
from controlstack.schedule import Schedule, soft_weight

STEPS = 20


def ours(start: float, end: float, *, late: bool = False) -> set[int]:
    """The evaluations in which a unit acts.

    late: as with the setting `control_net_late_window`, whose host says how far its counter is
    """
    schedule = Schedule(start=start, end=end)
    x = torch.zeros(1, 4, 1, 1)
    counter = (max(i - 1, 0) / STEPS for i in range(STEPS))
    spans = ((at, at) for at in counter) if late else ((i / STEPS, (i + 1) / STEPS) for i in range(STEPS))
    calls = (Call(x, x[:, 0, 0, 0], x[:, :, 0], None, (Row(0),), span) for span in spans)
    return {i for i, call in enumerate(calls) if schedule.at(call) is not None}


def the_incumbents(start: float, end: float) -> set[int]:
    """It reads A1111's step counter before the step has counted: 0, 0, 1, 2 …"""
    return {i for i in range(STEPS) if start <= max(i - 1, 0) / STEPS <= end}


@pytest.mark.parametrize(
    ("start", "end", "late", "longer"), [(0, 1, 0, 0), (0, 0.5, 0, 2), (0.25, 1, 1, 0), (0.25, 0.5, 1, 2)]
)
def test_the_window_starts_one_step_earlier_and_ends_two_earlier(
    start: float, end: float, late: int, longer: int
) -> None:
    first, last = round(start * STEPS), round(end * STEPS)
    assert ours(start, end) == set(range(first, last))
    assert the_incumbents(start, end) == set(range(first + late, last + longer))
    assert ours(start, end, late=True) == the_incumbents(start, end)


def test_soft_weights_are_the_incumbents_also_for_sdxl() -> None:
    """Its SD1 list of thirteen, of which SDXL takes the first ten: the middle block gets 0.825³."""
    published = [
        0.09941396206337118,
        0.12050177219802567,
        0.14606275417942507,
        0.17704576264172736,
        0.214600924414215,
        0.26012233262329093,
        0.3152997971191405,
        0.3821815722656249,
        0.4632503906249999,
        0.561515625,
        0.6806249999999999,
        0.825,
        1.0,
    ]
    assert [soft_weight(i) for i in range(13)] == pytest.approx(published)
    assert soft_weight(9) == pytest.approx(0.825**3)
