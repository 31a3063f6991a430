from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nets
import pytest

from controlstack.catalog import Catalog
from controlstack.errors import ControlError
from controlstack.faces import remote, xyz
from controlstack.unit import ControlNetUnit, parse


@pytest.fixture
def axes(tmp_path: Path) -> dict[str, xyz.Axis]:
    for name in ("control_a", "control_b"):
        nets.save(tmp_path / f"{name}.safetensors", nets.controlnet(nets.SD1).state_dict())
    host: Any = SimpleNamespace(catalog=Catalog([tmp_path]))
    return {axis.label: axis for axis in xyz.axes(host)}


def test_labels_are_the_incumbents(axes: dict[str, xyz.Axis]) -> None:
    """Grids are saved as infotexts with these labels."""
    assert list(axes) == [
        *("Enabled", "Model", "Weight", "Guidance Start", "Guidance End", "Control Mode", "Resize Mode"),
        *("Preprocessor", "Pre Resolution", "Pre Threshold A", "Pre Threshold B"),
    ]
    assert axes["Model"].cost == 0.9


@pytest.mark.parametrize(
    ("label", "text", "values"),
    [
        ("Weight", "0.5, 1", [0.5, 1.0]),
        ("Weight", "0.5-1 (+0.25), 2", [0.5, 0.75, 1.0, 2.0]),
        ("Weight", "0-1 [3]", [0.0, 0.5, 1.0]),
        ("Weight", "0.1, [0.2, 0.3], None", [0.1, [0.2, 0.3], None]),
        ("Weight", "[0.2, None], [, 0.3]", [[0.2, None], [None, 0.3]]),
        ("Pre Resolution", "1-3, 512", [1, 2, 3, 512]),
        ("Pre Resolution", "256-1024 (+256)", [256, 512, 768, 1024]),
        ("Pre Threshold A", "-1", [-1.0]),
        ("Enabled", "True, False, 1, 0", [True, False, True, False]),
        (
            "Control Mode",
            "Balanced, My prompt is more important",
            ["Balanced", "My prompt is more important"],
        ),
        ("Resize Mode", "just resize, 1", ["Just Resize", "Crop and Resize"]),
        ("Preprocessor", "canny, invert (from white bg & black line)", ["canny", "invert"]),
    ],
)
def test_what_a_field_of_the_grid_may_say(
    axes: dict[str, xyz.Axis], label: str, text: str, values: list[object]
) -> None:
    assert axes[label].values(text) == values
    assert [axes[label].value(value) for value in axes[label].values(text)] == values, "the grid asks twice"


def test_models_by_their_full_names_too(axes: dict[str, xyz.Axis]) -> None:
    first, second = axes["Model"].choices()[1:]
    assert axes["Model"].values("control_a") == [first]
    assert axes["Model"].values(f"{first}, {second}") == [first, second]
    assert axes["Model"].values(f"[{first}, {second}], None") == [[first, second], None]


@pytest.mark.parametrize(
    ("label", "text", "sentence"),
    [
        ("Weight", "heavy", "'heavy' is no number"),
        ("Weight", "0-1 (+0)", "steps of 0"),
        ("Weight", "1.2.3", "'1.2.3' is no number"),
        ("Enabled", "perhaps", "neither on nor off"),
        ("Control Mode", "balance", "Give one of 'Balanced'"),
        ("Model", "control_c", "Did you mean control_"),
        ("Preprocessor", "cany", "Did you mean canny"),
    ],
)
def test_mistakes_are_said_before_the_grid_starts(
    axes: dict[str, xyz.Axis], label: str, text: str, sentence: str
) -> None:
    with pytest.raises(ControlError, match=sentence):
        axes[label].values(text)


def test_an_axis_acts_on_its_job_alone_and_without_the_setting(axes: dict[str, xyz.Axis]) -> None:
    """As the grid does it: it registers, makes one shallow copy of the job for each cell, and applies."""

    @dataclass
    class AxisOption:
        label: str
        type: Any
        apply: Any
        cost: float = 0.0
        choices: Any = None
        prepare: Any = None

    grid: Any = ModuleType("xyz_grid.py")
    grid.AxisOption, grid.axis_options = AxisOption, []
    host: Any = SimpleNamespace(catalog=Catalog([]))
    for _ in range(2):  # as after a reload of the page
        xyz.register([SimpleNamespace(module=grid), SimpleNamespace(module=ModuleType("other.py"))], host)
    assert len(grid.axis_options) == len(axes)
    weight = next(option for option in grid.axis_options if option.label == "[ControlNet] Weight")
    cells = [SimpleNamespace(), SimpleNamespace()]
    weight.apply(cells[0], 0.5, [0.5])
    units = [{"module": "canny", "model": "net"}]
    assert remote.overlay(cells[0], units, allowed=False)[0]["weight"] == 0.5
    assert remote.overlay(cells[1], units, allowed=False) is units


UNITS = [
    {"module": "canny", "model": "a", "guidance": 0.5, "lowvram": True},
    ControlNetUnit(module="none", model="b", weight=0.7),
    ControlNetUnit(),
]


def heard(**said: object) -> list[ControlNetUnit]:
    p = SimpleNamespace(**{f"control_net_{name}": value for name, value in said.items()})
    return [parse(value) for value in remote.overlay(p, UNITS, allowed=True)]


def test_other_scripts_are_heard_only_where_the_setting_lets_them() -> None:
    p = SimpleNamespace(control_net_weight=0.2)
    assert remote.overlay(p, UNITS, allowed=False) is UNITS
    assert [parse(value).weight for value in remote.overlay(p, UNITS, allowed=True)] == [0.2, 0.2, 1.0]


def test_one_value_counts_for_all_units_that_are_on_a_list_for_each() -> None:
    before = [dict(UNITS[0]), *(dict(vars(unit)) for unit in UNITS[1:])]
    first, second, third = heard(weight=[None, 0.3], model="c", guidance_end=0.9, lowvram=False)
    assert (first.weight, second.weight, third.weight) == (1.0, 0.3, 1.0)
    assert (first.model, second.model, third.model) == ("c", "c", "None")
    assert (first.guidance_end, first.low_vram) == (0.9, False), "in place of the older names"
    assert not third.enabled, "an empty unit stays off"
    assert [dict(UNITS[0]), *(dict(vars(unit)) for unit in UNITS[1:])] == before


def test_enabled_counts_for_the_first_unit_unless_it_is_a_list() -> None:
    assert [unit.enabled for unit in heard(enabled=False)] == [False, True, False]
    on = heard(enabled=[None, False, True], module="canny", model="d")
    assert [(unit.enabled, unit.model) for unit in on] == [(True, "d"), (False, "b"), (True, "d")]


def test_a_job_without_units_gets_one_from_another_script() -> None:
    p = SimpleNamespace(
        control_net_enabled=True, control_net_module="canny", control_net_input_image="pixels"
    )
    first, second = (parse(value) for value in remote.overlay(p, [ControlNetUnit()] * 2, allowed=True))
    assert (first.enabled, first.module, first.image) == (True, "canny", "pixels")
    assert not second.enabled


def test_guidance_strength_is_the_end_and_the_old_image_serves_units_without_one() -> None:
    first, second, _ = heard(
        guidance_strength=0.4, guidance_end=0.6, input_image=["x", "y"], image=[None, "z"]
    )
    assert (first.guidance_end, second.guidance_end) == (0.4, 0.4)
    assert (first.image, second.image) == ("x", "z")


def test_what_another_script_says_is_checked_like_all_else() -> None:
    with pytest.raises(ControlError, match="weight is 'heavy'"):
        heard(weight="heavy")
