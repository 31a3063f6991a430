"""The functions that other extensions call; sources: the incumbent's signatures and its callers' habits."""

from __future__ import annotations

import copy
import inspect
import logging
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from controlstack import image
from controlstack.errors import ControlError
from controlstack.faces import external_code as cn
from controlstack.faces import global_state
from controlstack.unit import ControlNetUnit, parse

SLOTS = 11


@dataclass
class Script:
    """The parts of a host's script that callers know."""

    name: str
    args_from: int
    args_to: int

    def title(self) -> str:
        return self.name


@dataclass
class Runner:
    alwayson_scripts: list[Script] = field(default_factory=list)


RUNNER = Runner([Script("Before", 1, 3), Script("ControlNet", 3, 3 + SLOTS), Script("After", 14, 15)])


def args(*units: Any) -> list[Any]:
    """The first is the selected script's number; then each script's."""
    idle = [ControlNetUnit() for _ in range(SLOTS - len(units))]
    return [0, "before", {"not": "ours"}, *units, *idle, "after"]


def job(*units: Any, runner: Runner | None = RUNNER) -> Any:
    values = tuple(args(*units))
    return SimpleNamespace(scripts=runner, script_args=values, script_args_value=values)


def test_signatures_are_the_incumbents() -> None:
    expected = {
        "get_all_units_in_processing": ["p"],
        "get_all_units": ["script_runner", "script_args"],
        "get_all_units_from": ["script_args"],
        "get_single_unit_from": ["script_args", "index"],
        "get_max_models_num": [],
        "to_processing_unit": ["unit"],
        "update_cn_script_in_processing": ["p", "cn_units", "_kwargs"],
        "update_cn_script": ["script_runner", "script_args", "cn_units"],
        "update_cn_script_in_place": ["script_runner", "script_args", "cn_units", "_kwargs"],
        "get_models": ["update"],
        "get_modules": ["alias_names"],
        "get_modules_detail": ["alias_names"],
        "pixel_perfect_resolution": ["image", "target_H", "target_W", "resize_mode"],
        "to_base64_nparray": ["encoding"],
        "get_api_version": [],
    }
    found = {name: list(inspect.signature(getattr(cn, name)).parameters) for name in expected}
    assert found == expected
    assert all(hasattr(cn, name) for name in cn.__all__)


def test_a_jobs_units_are_those_that_a_change_reaches() -> None:
    unit = ControlNetUnit(module="canny", model="a")
    p = job(unit, {"module": "none", "model": "b", "lowvram": True})
    found = cn.get_all_units_in_processing(p)
    assert len(found) == SLOTS
    assert found[0] is unit
    assert (found[1].model, found[1].low_vram, found[1].enabled) == ("b", True, True)
    assert cn.get_single_unit_from(p.script_args[3:], 1).model == "b"
    assert cn.get_single_unit_from(["no unit"], 0) is None
    assert cn.get_all_units(Runner(), p.script_args) == []
    with pytest.raises(ControlError, match="weight is 'heavy'"):
        cn.get_all_units_from([{"module": "canny", "weight": "heavy"}])


@pytest.mark.parametrize("kind", [list, tuple])
def test_new_units_leave_every_other_argument_in_its_place(kind: type) -> None:
    """Also of later scripts: the incumbent moves them, and a job from the page then reads the wrong ones."""
    before, runner = kind(args()), copy.deepcopy(RUNNER)
    unit = ControlNetUnit(module="canny", model="a")
    after = cn.update_cn_script(runner, before, [unit])
    assert type(after) is kind
    assert (after[:3], after[-1], len(after)) == (before[:3], "after", len(before))
    assert after[3] is unit
    assert not any(parse(idle).enabled for idle in after[4:-1])
    assert runner == RUNNER


def test_new_units_reach_the_job() -> None:
    p = job({"module": "canny", "model": "a"})
    cn.update_cn_script_in_processing(p, [{"module": "none", "model": "b"}], is_img2img=True, is_ui=False)
    assert [parse(u).model for u in p.script_args[3:5]] == ["b", "None"]
    listed = args()
    cn.update_cn_script_in_place(RUNNER, listed, [ControlNetUnit(model="c")])
    assert listed[3].model == "c"


def test_a_unit_appended_to_all_that_there_are_takes_the_place_of_an_idle_one() -> None:
    """A habit of callers: read all, append one, write all."""
    p = job(ControlNetUnit(module="canny", model="a"))
    cn.update_cn_script_in_processing(p, [*cn.get_all_units_in_processing(p), ControlNetUnit(model="b")])
    assert [parse(u).model for u in p.script_args[3:6]] == ["a", "b", "None"]
    assert len(p.script_args) == 3 + SLOTS + 1


def test_too_many_units_fill_every_slot_and_the_job_will_say_so() -> None:
    """One slot more than can be stacked: see `faces/ui`."""
    p = job()
    cn.update_cn_script_in_processing(p, [ControlNetUnit(model=str(i)) for i in range(20)])
    assert sum(bool(parse(u).enabled) for u in p.script_args[3 : 3 + SLOTS]) == SLOTS


def test_units_without_a_place_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for runner in (None, Runner(), Runner([Script("ControlNet", 90, 101)])):
            p = job(runner=runner)
            cn.update_cn_script_in_processing(p, [ControlNetUnit(model="a")])
            assert p.script_args == p.script_args_value
    assert caplog.text.count("These 1 units have no effect") == 3


def test_a_unit_as_adetailer_and_deforum_build_it() -> None:
    adetailer = cn.ControlNetUnit(
        model="control_v11p_sd15_inpaint [ebff9138]",
        weight=0.8,
        control_mode=cn.ControlMode.BALANCED,
        module=None,
        guidance_start=0.0,
        guidance_end=0.9,
        pixel_perfect=True,
        enabled=True,
    )
    assert (parse(adetailer).module, parse(adetailer).enabled) == ("none", True)
    deforum = cn.ControlNetUnit(
        **dict(enabled=True, module="canny", model="a", weight=1, resize_mode="Inner Fit (Scale to Fit)"),
        **dict(low_vram=False, processor_res=64, threshold_a=64, threshold_b=64, guess_mode=False),
    )
    assert parse(deforum).resize_mode is cn.ResizeMode.INNER_FIT


def test_a_unit_from_a_dict_is_checked() -> None:
    assert cn.ControlNetUnit.from_dict({"module": "canny", "lowvram": "true"}).low_vram is True
    with pytest.raises(ControlError, match="weight is 3"):
        cn.ControlNetUnit.from_dict({"weight": 3})


def test_numbers_and_old_labels_of_the_modes() -> None:
    assert [cn.resize_mode_from_value(i) for i in (0, 1, 2, 3)] == [*cn.ResizeMode, cn.ResizeMode.RESIZE]
    for old, new in cn.resize_mode_aliases.items():
        assert cn.resize_mode_from_value(old).value == new
    assert set(cn.resize_mode_aliases) == {  # peer, resize_mode_aliases
        *("Inner Fit (Scale to Fit)", "Scale to Fit (Inner Fit)"),
        *("Outer Fit (Shrink to Fit)", "Envelope (Outer Fit)"),
    }


def test_pixel_perfect_resolution_by_hand() -> None:
    """200x100 to 512x512: stretched or cropped 100 becomes 512, fitted within it becomes 256."""
    picture = np.zeros((100, 200, 3), np.uint8)
    resolution = {m: cn.pixel_perfect_resolution(picture, 512, 512, m) for m in cn.ResizeMode}
    assert list(resolution.values()) == [512, 512, 256]
    assert cn.pixel_perfect_resolution(picture, target_H=512, target_W=512, resize_mode=2) == 256


def test_pictures() -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert np.array_equal(cn.to_base64_nparray(image.encode_png(picture)), picture)
    masked = np.dstack([picture, np.full((4, 4), 255, np.uint8)])
    assert (cn.visualize_inpaint_mask(masked)[..., 3] == 128).all()
    assert cn.visualize_inpaint_mask(picture) is picture


def test_modules_and_the_tables_between_names_and_labels() -> None:
    assert cn.get_modules()[0] == "none"
    assert "invert (from white bg & black line)" in cn.get_modules(alias_names=True)
    assert global_state.reverse_preprocessor_aliases["invert (from white bg & black line)"] == "invert"
    assert global_state.preprocessor_aliases["invert"] == "invert (from white bg & black line)"
    assert global_state.get_preprocessor("canny").name == "canny"
    with pytest.raises(AttributeError):
        _ = global_state.no_such_table
