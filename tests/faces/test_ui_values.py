"""One unit value is the truth: what the page shows, the API, parameters and scripts make the same unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from panel_host import PanelHost
from test_infotext import UNITS

from controlstack.errors import ControlError
from controlstack.faces import external_code, infotext, remote
from controlstack.faces.ui import pictures, values
from controlstack.faces.ui.fields import FIELDS, LISTED, NAMES
from controlstack.unit import INFOTEXT, ControlNetUnit, InputMode, WeightType, in_hires, parse
from controlstack.unit import infotext as written

AT_REST = {field.name: field.default for field in FIELDS} | {"independent": True}
PICTURE = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)


def arguments(*units: dict[str, Any], slots: dict[int, Any] | None = None) -> list[Any]:
    """A script's arguments: the page's markers but for `slots`, then the page's values."""
    first = [(slots or {}).get(place, values.marker()) for place in range(values.SLOTS)]
    return first + [{**AT_REST, **unit}[name] for unit in units for name in NAMES]


def same(one: ControlNetUnit, other: ControlNetUnit) -> bool:
    """In both passes."""
    told = [name for name in ("enabled", *INFOTEXT) if name != "hires"]
    return all(
        getattr(of(one), name) == getattr(of(other), name) for name in told for of in (lambda u: u, in_hires)
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(UNITS)
def test_what_the_page_shows_of_a_unit_makes_the_same_unit(fields: dict[str, Any]) -> None:
    start, end = fields.pop("window")
    unit = parse({**fields, "guidance_start": start, "guidance_end": end, "enabled": True})
    assert same(parse(values.unit({**AT_REST, **values.of(unit)})), unit)


def test_every_weight_type_by_name() -> None:
    for kind in WeightType:
        unit = parse({"model": "a", "advanced_weighting": kind.value, "composition_weight": 0.5})
        shown = values.of(unit)
        assert (shown["weight_type"], shown["advanced_weighting"]) == (kind.value, "")
        assert same(parse(values.unit({**AT_REST, **shown})), unit)


@pytest.mark.parametrize("text", ["1, 0.5", "[1, 0.5]", "1 0.5", " [1 ,0.5 ]"])
def test_numbers_are_listed_as_people_list_them(text: str) -> None:
    unit = values.unit({**AT_REST, "enabled": True, "advanced_weighting": text, "batch_weights": text})
    assert unit.advanced_weighting == unit.batch_weights == [1.0, 0.5]


def test_a_slot_is_filled_from_the_page_unless_somebody_filled_it() -> None:
    own = ControlNetUnit(module="canny", model="b")
    units = values.units(
        arguments(
            {"enabled": True, "model": "a", "weight": 0.5},
            {"enabled": True, "model": "not seen"},
            {"enabled": True, "model": "not seen"},
            slots={1: {"model": "c"}, 2: own},
        )
    )
    assert (units[0].model, units[0].weight, units[0].enabled, units[0].is_ui) == ("a", 0.5, True, False)
    assert units[1] == {"model": "c"}
    assert units[2] is own
    assert len(units) == values.SLOTS
    assert not any(parse(unit).enabled for unit in units[3:])


def test_a_marker_that_another_extension_switches_off_is_off() -> None:
    off = values.marker()
    off.enabled = False
    assert not parse(values.units(arguments({"enabled": True, "model": "a"}, slots={0: off}))[0]).enabled


def test_units_behind_the_slots_are_counted_and_the_pages_drawings_are_none() -> None:
    """Hosts write an API caller's further units over the arguments behind the slots."""
    given = arguments({"picture": {"background": None, "layers": [], "composite": None}})
    assert len(values.units(given)) == values.SLOTS
    given[values.SLOTS] = {"model": "one too many"}
    assert values.units(given)[-1] == {"model": "one too many"}


def test_a_page_that_cannot_be_parsed_says_so_when_it_is_used() -> None:
    unit = values.unit({**AT_REST, "enabled": True, "guidance_start": 0.9, "guidance_end": 0.1})
    with pytest.raises(ControlError, match=r"guidance_start is 0\.9"):
        parse(unit)


def test_values_of_the_page_are_the_units_defaults_at_first() -> None:
    unit, default = values.unit(AT_REST), parse({})
    assert not unit.enabled
    assert {name: getattr(unit, name) for name in INFOTEXT} == {n: getattr(default, n) for n in INFOTEXT}


@dataclass
class Script:
    """What hosts keep of a script."""

    name: str
    args_from: int
    args_to: int

    def title(self) -> str:
        return self.name


@dataclass
class Runner:
    alwayson_scripts: list[Script]


@dataclass
class Job:
    scripts: Runner
    script_args: Any
    script_args_value: Any = field(init=False)

    def __post_init__(self) -> None:
        self.script_args_value = self.script_args


def job(kind: type[Any], *units: dict[str, Any]) -> Job:
    own = arguments(*units)
    scripts = [
        Script("Before", 1, 2),
        Script("ControlNet", 2, 2 + len(own)),
        Script("After", 2 + len(own), 3 + len(own)),
    ]
    return Job(Runner(scripts), kind([0, "before", *own, "after"]))


@pytest.mark.parametrize("kind", [list, tuple])
def test_scripts_find_the_pages_units_among_the_arguments(kind: type[Any], tmp_path: Path) -> None:
    p = job(kind, {"enabled": True, "model": "a"}, {"weight": 0.5})
    asked = external_code.get_all_units_in_processing(p)
    asked[0].weight = 0.125
    heard = remote.heard(p, p.script_args[2:-1], PanelHost(tmp_path))
    for units in (asked, heard, p.script_args[2 : 2 + values.SLOTS]):
        assert [unit.model for unit in units[:2]] == ["a", "None"]
        assert [parse(unit).enabled for unit in units[:3]] == [True, False, False]
    assert heard[0].weight == 0.125
    assert type(p.script_args) is kind
    assert p.script_args[0] == 0
    assert p.script_args[-1] == "after"
    assert len(p.script_args) == len(p.script_args_value)
    again = remote.heard(p, p.script_args[2:-1], PanelHost(tmp_path))
    assert again[0] is heard[0]


def test_units_that_another_extension_sets_take_the_place_of_the_pages(tmp_path: Path) -> None:
    p = job(list, {"enabled": True, "model": "the page's"})
    external_code.update_cn_script_in_processing(p, [ControlNetUnit(model="theirs", enabled=True)])
    heard = remote.heard(p, p.script_args[2:-1], PanelHost(tmp_path))
    assert [unit.model for unit in heard if parse(unit).enabled] == ["theirs"]
    assert p.script_args[-1] == "after"


def test_the_grid_sets_units_of_the_page(tmp_path: Path) -> None:
    p = job(list, {"enabled": True, "model": "a"}, {"enabled": False, "model": "b"})
    remote.set_by_axis(p, "control_net_weight", 0.25)
    heard = [parse(unit) for unit in remote.heard(p, p.script_args[2:-1], PanelHost(tmp_path))]
    assert [unit.weight for unit in heard[:2]] == [0.25, 1.0]


def test_parameters_set_the_page_to_the_unit_they_tell_of(tmp_path: Path) -> None:
    from controlstack.faces.ui import pasting

    unit = parse(
        {
            "module": "canny",
            "model": "a [0123abcd]",
            "weight": 0.75,
            "guidance_end": 0.5,
            "threshold_a": 50.0,
            "processor_res": 768,
            "weight_curve": "0@0, 1@1 smooth",
            "hires": {"weight": 0.5},
            "batch_weights": [1.0, 0.5],
        }
    )
    params: dict[str, Any] = {"ControlNet 0": written(unit)}
    infotext.paste(params, PanelHost(tmp_path))
    assert same(parse(values.unit({**AT_REST, **pasting.pasted("ControlNet 0", params)})), unit)


# Canvases as each gradio sends them, seen with 3.41.2, 4.40.0 and 6.31.0.
MASK = np.zeros((8, 6), np.uint8)
MASK[2:4] = 255
THREE = {"image": PICTURE, "mask": np.repeat(MASK[..., None], 3, 2)}
OPAQUE = np.dstack([PICTURE, np.full((8, 6), 255, np.uint8)])
STROKE = np.dstack([np.full_like(PICTURE, 255), MASK])
FOUR = {"background": OPAQUE, "layers": [STROKE], "composite": OPAQUE}


@pytest.mark.parametrize("value", [THREE, FOUR])
def test_a_drawing_of_every_gradio_is_a_picture_and_a_mask(value: Any) -> None:
    found = pictures.drawn(value)
    assert found is not None
    assert np.array_equal(found.rgb, PICTURE)
    assert found.mask is not None
    assert np.array_equal(found.mask, MASK)
    assert np.array_equal(pictures.region(value), MASK)


@pytest.mark.parametrize(
    "value", [PICTURE, {**THREE, "mask": np.zeros_like(PICTURE)}, {**FOUR, "layers": []}]
)
def test_without_strokes_there_is_no_mask(value: Any) -> None:
    found = pictures.drawn(value)
    assert found is not None
    assert found.mask is None
    assert np.array_equal(pictures.region(value), PICTURE[..., 0])


@pytest.mark.parametrize(
    "value",
    [None, {"image": None, "mask": None}, {"background": None, "layers": [], "composite": None},
     {"background": np.zeros((8, 6, 4), np.uint8), "layers": [], "composite": None}],
)  # fmt: skip
def test_an_empty_canvas_is_no_picture(value: Any) -> None:
    assert pictures.drawn(value) is None
    assert pictures.region(value) is None


def test_several_pictures_come_from_where_gradio_keeps_uploads_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    uploads = tmp_path / "uploads"
    uploads.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    for folder in (uploads, tmp_path):
        Image.fromarray(PICTURE).save(folder / "a.png")
    sent = [{"name": str(uploads / "a.png"), "data": None, "is_file": True}, (str(uploads / "a.png"), None)]
    unit = values.unit({**AT_REST, "enabled": True, "input_mode": "merge", "gallery": sent})
    assert unit.input_mode is InputMode.MERGE
    assert [one["image"].tolist() for one in unit.image] == [PICTURE.tolist()] * 2  # type: ignore[attr-defined]
    for elsewhere in (str(tmp_path / "a.png"), str(uploads / ".." / "a.png")):
        assert values.unit({**AT_REST, "input_mode": "merge", "gallery": [(elsewhere, None)]}).image is None
        batch = values.unit({**AT_REST, "input_mode": "batch", "batch_files": [elsewhere]})
        assert batch.batch_images is None


def test_a_preview_as_input_needs_no_preprocessor() -> None:
    unit = values.unit({**AT_REST, "module": "canny", "preview_as_input": True, "preview": PICTURE})
    assert unit.module == "none"
    assert np.array_equal(unit.image, PICTURE)  # type: ignore[arg-type]


def test_in_img2img_a_unit_without_its_own_picture_takes_the_jobs() -> None:
    assert values.unit({**AT_REST, "picture": THREE, "independent": False}).image is None


def test_the_weights_textbox_is_listed_at_first() -> None:
    assert AT_REST["weight_type"] == LISTED
