from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlstack.curve import Curve
from controlstack.errors import ControlError

Points = tuple[tuple[float, float], ...]
HUNDREDTHS = st.integers(0, 100).map(lambda n: n / 100)
POINTS = st.lists(
    st.tuples(HUNDREDTHS, st.integers(-40, 40).map(lambda n: n / 4)), min_size=1, max_size=6
).map(lambda points: tuple(sorted(points, key=lambda point: point[0])))


@given(POINTS, st.booleans())
def test_what_is_written_is_read_back(points: Points, smooth: bool) -> None:
    curve = Curve(points, smooth)
    assert Curve.parse(str(curve)) == curve


@given(POINTS.filter(lambda points: len({share for share, _ in points}) == len(points)), st.floats(0, 1))
def test_straight_curves_are_numpys_interpolation(points: Points, share: float) -> None:
    expected = np.interp(share, [x for x, _ in points], [y for _, y in points])
    assert Curve(points).at(share) == pytest.approx(expected, abs=1e-9)


@given(POINTS, st.floats(0, 1))
def test_a_curve_stays_between_its_points(points: Points, share: float) -> None:
    factors = [factor for _, factor in points]
    assert min(factors) - 1e-9 <= Curve(points, smooth=True).at(share) <= max(factors) + 1e-9


def test_smooth_steps_have_no_slope_at_their_points() -> None:
    curve = Curve.parse("0@0, 1@0.5, 0.5@1 smooth")
    assert [curve.at(x) for x in (0, 0.25, 0.5, 1)] == [0, 0.5, 1, 0.5]  # smoothstep(1/2) is 1/2
    for x in (0.0, 0.5, 1.0):
        near = [curve.at(min(max(x + d, 0), 1)) for d in (-1e-4, 1e-4)]
        assert near == pytest.approx([curve.at(x)] * 2, abs=1e-6)


def test_two_points_of_one_share_make_a_jump() -> None:
    curve = Curve.parse("1@0, 1@0.5, 0@0.5, 0@1")
    assert [curve.at(x) for x in (0.49, 0.5, 0.51)] == [1, 0, 0]
    assert Curve.parse("0@0.3, 0@1").never
    assert not curve.never


@pytest.mark.parametrize(
    "text", ["", "smooth", "1", "1@2", "1@0.5, 0@0.2", "a@0", "1@0;0@1", "1@-1", "nan@0", "99@0"]
)
def test_what_is_no_curve_gets_a_sentence(text: str) -> None:
    with pytest.raises(ControlError, match="weight curve"):
        Curve.parse(text)
