"""Who is who in the calls that A1111's `CFGDenoiser` makes of one evaluation.

Expected rows are written by hand after `sd_samplers_cfg_denoiser.py` of A1111 1.10.
"""

from __future__ import annotations

import pytest

from controlstack.hosts.ledger import Ledger, rows
from controlstack.joints import Row, RowKind

C, U, P = RowKind.COND, RowKind.UNCOND, RowKind.UNCOND_IMAGE


def kinds(taken: tuple[Row, ...]) -> list[tuple[int, RowKind, int]]:
    return [(row.image, row.kind, row.prompt) for row in taken]


def test_two_pictures_with_and_without_an_and_prompt() -> None:
    assert kinds(rows([2, 1], 5)) == [(0, C, 0), (0, C, 1), (1, C, 0), (0, U, 0), (1, U, 0)]


def test_an_edit_model_asks_for_the_negative_prompt_with_its_picture_first() -> None:
    assert kinds(rows([1, 1], 6)) == [(0, C, 0), (1, C, 0), (0, P, 0), (1, P, 0), (0, U, 0), (1, U, 0)]


@pytest.mark.parametrize(
    "calls",
    [[5], [2, 2, 1], [3, 2], [1, 1, 1, 1, 1]],
    ids=["at once", "by pictures", "by length", "one by one"],
)
def test_calls_take_the_rows_in_their_order(calls: list[int]) -> None:
    """`batch_cond_uncond` off cuts slices of the number of pictures, also across the two kinds of prompt."""
    planned = rows([2, 1], 5)
    ledger = Ledger(planned)
    assert sum((ledger.take(count) for count in calls), ()) == planned


def test_skipped_negatives_are_the_end_that_nobody_takes() -> None:
    ledger = Ledger(rows([1, 1], 4))
    assert kinds(ledger.take(2)) == [(0, C, 0), (1, C, 0)]


def test_whoever_calls_in_another_way_gets_all_rows_or_those_of_the_positive_prompt() -> None:
    planned = rows([1], 2)
    tiles = Ledger(planned)
    assert tiles.take(6) == planned * 3
    assert tiles.take(2) == planned
    assert kinds(Ledger(planned).take(3)) == [(0, C, 0), (1, C, 0), (2, C, 0)]
    assert kinds(Ledger(()).take(1)) == [(0, C, 0)]
