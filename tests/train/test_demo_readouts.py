"""The read-outs against hand-made arrays and independent implementations."""

from __future__ import annotations

import numpy as np
import pytest

from controlstack.train.demo import readouts
from controlstack.train.demo.scenes import COLOURS


def _line(column: int) -> np.ndarray:
    picture = np.zeros((32, 32), bool)
    picture[:, column] = True
    return picture


@pytest.mark.parametrize(("moved", "score"), [(0, 1.0), (2, 1.0), (3, 0.0)])
def test_edges_count_within_two_pixels(moved: int, score: float) -> None:
    assert readouts.edge_f1(_line(10), _line(10 + moved)) == score


def test_edge_f1_is_the_harmonic_mean() -> None:
    """Half of what is found is right (precision 1/2) and all that is wanted is found (recall 1): 2/3."""
    assert readouts.edge_f1(_line(10) | _line(25), _line(10)) == pytest.approx(2 / 3)


def test_no_edges_agree_with_no_edges_only() -> None:
    none = np.zeros((8, 8), bool)
    assert readouts.edge_f1(none, none) == 1
    assert readouts.edge_f1(none, ~none) == 0


def test_rank_correlation_ignores_monotone_changes_and_handles_ties() -> None:
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: Pearson's r of these is 4.5 / sqrt(4.5 * 5)."""
    assert readouts.rank_correlation(np.arange(9.0), np.exp(np.arange(9.0))) == pytest.approx(1)
    assert readouts.rank_correlation(np.arange(9.0), -np.arange(9.0)) == pytest.approx(-1)
    tied = readouts.rank_correlation(np.array([1, 2, 2, 3]), np.array([1, 2, 3, 4]))
    assert tied == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_mean_iou_by_hand() -> None:
    """Class 0: 1 of 3 cells of the union; class 1: 1 of 3; the unwanted class 2 counts against both."""
    found, wanted = np.array([0, 2, 1, 0]), np.array([0, 0, 1, 1])
    assert readouts.mean_iou(found, wanted) == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_mean_iou_of_several_pictures_is_that_of_their_confusion_matrix() -> None:
    """Expected by Long et al.: the mean of n_ii / (t_i + sum_j n_ji - n_ii), which no mean of pictures is."""
    draw = np.random.default_rng(0)
    wanted = draw.integers(0, 4, (3, 8, 8)) % np.array([1, 2, 4])[:, None, None]
    found = np.where(draw.random(wanted.shape) < 0.6, wanted, draw.integers(0, 4, wanted.shape))
    counts = np.zeros((4, 4))
    np.add.at(counts, (wanted.ravel(), found.ravel()), 1)
    right, is_there, is_found = np.diag(counts), counts.sum(1), counts.sum(0)
    expected = (right / (is_there + is_found - right)).mean()
    assert readouts.mean_iou(found, wanted) == pytest.approx(expected)
    alone = [readouts.mean_iou(*both) for both in zip(found, wanted, strict=True)]
    assert np.mean(alone) > expected + 0.1


@pytest.mark.parametrize("name", [name for name in COLOURS if name != "white"])
def test_colours_are_found_in_light_and_shade(name: str) -> None:
    colour = np.array(COLOURS[name], np.float64)
    picture = np.full((10, 10, 3), 128, np.uint8)
    picture[:5] = colour
    picture[5:7] = 0.6 * colour
    assert readouts.colour_share(picture, name) == pytest.approx(0.7)
    for other in COLOURS:
        if other not in (name, "white"):
            assert readouts.colour_share(picture, other) == 0
