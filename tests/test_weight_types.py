from __future__ import annotations

from itertools import pairwise

import pytest

from controlstack.errors import ControlError
from controlstack.unit import WeightType
from controlstack.weight_types import PARTS, layer_weights

TABLES = {
    # The incumbent's, with weight 1 and composition weight 0.5: of 16 layers, then of 11.
    "weak input": ([0.2] * 6 + [1] * 10, [0.2] * 4 + [1] * 7),
    "weak middle": ([1] * 6 + [0.2] + [1] * 9, [1] * 4 + [0.2] + [1] * 6),
    "weak output": ([1] * 7 + [0.2] * 9, [1] * 5 + [0.2] * 6),
    "strong middle": ([0.2] * 6 + [1] + [0.2] * 9, [0.2] * 4 + [1] + [0.2] * 6),
    "style transfer": ([1] * 4 + [0] * 5 + [1] * 7, [0] * 6 + [1] + [0] * 4),
    "composition": ([0] * 4 + [0.25, 1] + [0] * 10, [0, 0, 0, 1] + [0] * 7),
    "strong style transfer": ([1] * 4 + [0, 0] + [1] * 10, [1, 1, 1, 0] + [1] * 7),
    "style and composition": (
        [1] * 4 + [0.125, 0.5] + [0] * 3 + [1] * 7,
        [0, 0, 0, 0.5, 0, 0, 1] + [0] * 4,
    ),
    "strong style and composition": ([1] * 4 + [0.5, 0.5] + [1] * 10, [1, 1, 1, 0.5] + [1] * 7),
}
CURVES = {
    # By the incumbent's formulas: at the first layer, and in the middle of 16.
    "normal": (1.0, 1.0),
    "ease in": (1.0, 0.05 + 0.95 * 0.5),
    "ease out": (0.05, 0.05 + 0.95 * 0.5),
    "ease in-out": (0.05, 1.0),
    "reverse in-out": (1.0, 0.05),
}


def test_all_fourteen_are_checked() -> None:
    assert {kind.value for kind in WeightType} == TABLES.keys() | CURVES.keys()
    assert len(WeightType) == 14


@pytest.mark.parametrize("name", TABLES)
def test_parts_have_the_incumbents_weights(name: str) -> None:
    for layers, expected in zip(PARTS, TABLES[name], strict=True):
        assert layer_weights(WeightType(name), layers, composition=0.5) == pytest.approx(expected)


@pytest.mark.parametrize("name", CURVES)
def test_curves_rise_and_fall_as_the_incumbents(name: str) -> None:
    weights = layer_weights(WeightType(name), 16, 0.8)
    assert (weights[0], weights[8]) == pytest.approx([0.8 * factor for factor in CURVES[name]])
    steps = {round(abs(b - a), 9) for a, b in pairwise(weights)}
    assert len(steps) == 1, "straight lines"


def test_a_model_without_such_parts_is_told_what_it_has() -> None:
    assert layer_weights(WeightType.EASE_OUT, 13)[0] == 0.05
    with pytest.raises(ControlError, match="for IP-Adapters"):
        layer_weights(WeightType.STYLE, 13)
