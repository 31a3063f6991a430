from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from controlstack.curve import Curve
from controlstack.joints import Call, Residuals, Row, RowKind
from controlstack.schedule import RegionMask, Schedule, soft_weight
from controlstack.unit import ControlMode, HiResFixOption

UNCOND, COND = RowKind.UNCOND, RowKind.COND


def call(
    kinds: tuple[RowKind, ...] = (UNCOND, COND), *, i: int = 0, of: int = 1, hires: bool = False
) -> Call:
    rows = tuple(Row(0, kind) for kind in kinds)
    x = torch.zeros(len(rows), 4, 8, 8)
    return Call(
        x, torch.zeros(len(rows)), torch.zeros(len(rows), 1, 1), None, rows, (i / of, (i + 1) / of), hires
    )


def ones(rows: int, skips: int = 12) -> Residuals:
    return Residuals(tuple(torch.ones(rows, 1, 2, 2) for _ in range(skips)), torch.ones(rows, 1, 1, 1))


@given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1))
def test_window_is_diffusers_rule(evaluations: int, start: float, end: float) -> None:
    # diffusers, pipeline_controlnet.py: keep = 1.0 - float(i / n < start or (i + 1) / n > end), with slack
    schedule = Schedule(start=start, end=end)
    for i in range(evaluations):
        edges = (i / evaluations - start, end - (i + 1) / evaluations)
        if min(map(abs, edges)) > 2e-6:
            kept = not (i / evaluations < start or (i + 1) / evaluations > end)
            assert (schedule.at(call(i=i, of=evaluations)) is not None) == kept


@pytest.mark.parametrize(
    ("start", "end", "active"), [(0.0, 0.5, 10), (0.1, 1.0, 18), (0.0, 0.0, 0), (0.1 + 0.2, 1.0, 14)]
)
def test_window_of_twenty_steps(start: float, end: float, active: int) -> None:
    # 0.1 + 0.2 is 0.30000000000000004: slider drift costs no step
    assert sum(Schedule(start=start, end=end).at(call(i=i, of=20)) is not None for i in range(20)) == active


def test_adaptive_samplers_go_by_the_noise_level() -> None:
    schedule = Schedule(start=0.2, end=0.6)
    levels = [replace(call(), span=(level, level)) for level in (0.0, 0.19, 0.2, 0.4, 0.6, 0.61)]
    assert [schedule.at(level) is not None for level in levels] == [False, False, True, True, True, False]


def test_modes_choose_rows_and_layers() -> None:
    # peer table: balanced flat on both; PROMPT soft on both; CONTROL soft on the positive rows only
    soft = [soft_weight(i) for i in range(13)]
    for mode, scales, rows in (
        (ControlMode.BALANCED, [1.0] * 13, [0, 1]),
        (ControlMode.PROMPT, soft, [0, 1]),
        (ControlMode.CONTROL, soft, [1]),
    ):
        strength = Schedule(weight=2.0, mode=mode).at(call())
        assert strength is not None
        assert list(strength.rows) == rows
        scaled = strength.apply(ones(len(rows)))
        for tensor, scale in zip((*scaled.skips, scaled.middle), scales, strict=True):
            assert tensor is not None
            assert tensor[rows].unique().tolist() == pytest.approx([2.0 * scale])
            assert not tensor[[r for r in (0, 1) if r not in rows]].any()


def test_layers_replace_weight_but_zero_weight_is_off() -> None:
    layers = tuple(float(i) for i in range(13))
    strength = Schedule(weight=0.5, mode=ControlMode.PROMPT, layers=layers).at(call())
    assert strength is not None
    scaled = strength.apply(ones(2))
    assert [skip.max().item() for skip in scaled.skips] == list(layers[:12])
    assert Schedule(weight=0.0, layers=layers).at(call()) is None


def test_rows_that_need_no_control_are_not_asked_for() -> None:
    control = Schedule(mode=ControlMode.CONTROL)
    assert control.at(call((UNCOND, UNCOND))) is None
    assert control.at(call((COND, UNCOND, RowKind.UNCOND_IMAGE, COND))).rows == [0, 3]
    assert Schedule(cond_only=True).at(call()).rows == [1]


@pytest.mark.parametrize(
    ("when", "low", "high"),
    [
        (HiResFixOption.BOTH, True, True),
        (HiResFixOption.LOW_RES_ONLY, True, False),
        (HiResFixOption.HIGH_RES_ONLY, False, True),
    ],
)
def test_passes(when: HiResFixOption, low: bool, high: bool) -> None:
    schedule = Schedule(when=when)
    assert (schedule.at(call(hires=False)) is not None, schedule.at(call(hires=True)) is not None) == (
        low,
        high,
    )
    assert (schedule.acts_in(hires=False), schedule.acts_in(hires=True)) == (low, high)


def test_hard_edges_are_soft_in_the_high_resolution_pass_only() -> None:
    schedule = Schedule(soft_in_hires=True)
    passes = [schedule.at(call(hires=hires)) for hires in (False, True)]
    skips = [strength.apply(ones(2)).skips[0] for strength in passes if strength is not None]
    assert [float(skip.mean()) for skip in skips] == pytest.approx([1.0, soft_weight(0)])


def test_region_mask_scales_features_at_their_size() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    strength = Schedule(mask=RegionMask(mask)).at(call())
    assert strength is not None
    skip = strength.apply(ones(2)).skips[0]
    assert torch.equal(skip, torch.tensor([1.0, 0.0]).expand(2, 1, 2, 2))
    assert Schedule(mask=RegionMask(torch.zeros(1, 1, 8, 8))).at(call()) is None


def test_encoder_features_soften_by_depth() -> None:
    # incumbent, for T2I-Adapter: (0.25, 0.62, 0.825, 1.0), shallow to deep
    features = {block: torch.ones(2, 1, 1, 1) for block in (2, 5, 8, 11)}
    strength = Schedule(mode=ControlMode.PROMPT, weight=2.0).at(call())
    assert strength is not None
    scaled = strength.apply(Residuals(encoder=features)).encoder
    assert scaled is not None
    assert [scaled[block].max().item() for block in (2, 5, 8, 11)] == pytest.approx([0.5, 1.24, 1.65, 2.0])


def test_the_sum_leaves_its_parts_alone() -> None:
    a, b = ones(2), Residuals(encoder={2: torch.ones(2, 1, 1, 1)})
    total = a + b + a
    assert total.skips[0].unique().tolist() == [2.0]
    assert total.encoder is not None
    assert total.encoder[2].unique().tolist() == [1.0]
    assert a.skips[0].unique().tolist() == [1.0]
    assert (b + b).middle is None


def test_a_curve_multiplies_by_how_far_the_pass_is() -> None:
    schedule = Schedule(weight=0.5, curve=Curve.parse("0@0, 1@0.5, 0@1"))
    strengths = [schedule.at(call(i=i, of=5)) for i in range(5)]
    assert [strength is None for strength in strengths] == [True, False, False, False, True]
    skips = [strength.apply(ones(2)).skips[0] for strength in strengths if strength is not None]
    assert [float(skip.mean()) for skip in skips] == pytest.approx([0.25, 0.5, 0.25])
    assert not Schedule(curve=Curve.parse("0@0")).acts_in(hires=False)
    assert Schedule(curve=Curve.parse("1@0, 0@1")).at(call()) is not None, "one evaluation is at 0"


def test_a_curve_multiplies_weights_for_each_layer_too() -> None:
    layers = tuple(float(i) for i in range(13))
    strength = Schedule(layers=layers, curve=Curve.parse("0.5@0")).at(call())
    assert strength is not None
    scaled = strength.apply(ones(2))
    assert [float(skip.mean()) for skip in scaled.skips] == [i / 2 for i in range(12)]


def test_the_negative_prompts_share_runs_from_balanced_to_more_important() -> None:
    kinds = (UNCOND, COND)
    half = Schedule(negative=0.5).at(call(kinds))
    assert half is not None
    assert half.apply(ones(2)).skips[3].flatten(1).mean(1).tolist() == [0.5, 1.0]
    none, mode = (
        Schedule(**given).at(call(kinds)) for given in ({"negative": 0.0}, {"mode": ControlMode.CONTROL})
    )
    assert none is not None
    assert mode is not None
    assert none.rows == mode.rows == [1]
    assert Schedule(negative=0.5, mode=ControlMode.CONTROL).at(call((UNCOND,))) is None


def test_pictures_of_a_batch_have_weights_of_their_own_in_turns() -> None:
    rows = tuple(Row(image, kind) for kind in (UNCOND, COND) for image in range(3))
    strength = Schedule(batch=(1.0, 0.25)).at(replace(call((UNCOND,) * 6), rows=rows))
    assert strength is not None
    assert strength.apply(ones(6)).skips[0].flatten(1).mean(1).tolist() == [1, 0.25, 1, 1, 0.25, 1]
    one = Schedule(batch=(0.0, 1.0)).at(replace(call((UNCOND,) * 6), rows=rows))
    assert one is not None
    assert one.rows == [1, 4], "a picture of weight 0 costs no network"
    assert not Schedule(batch=(0.0,)).acts_in(hires=False)


def test_a_pass_may_have_a_schedule_of_its_own() -> None:
    schedule = Schedule(weight=1.0, in_hires=Schedule(weight=0.25, end=0.5))
    weights = [schedule.at(call(i=i, of=2, hires=hires)) for hires in (False, True) for i in (0, 1)]
    assert [strength and strength.weight for strength in weights] == [1.0, 1.0, 0.25, None]
    assert not Schedule(in_hires=Schedule(weight=0)).acts_in(hires=True)
