"""Commands on the stack, its rows, presets, and a unit as it is sent."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from panel_host import SD1, PanelHost, model
from test_infotext import UNITS

from controlstack.errors import ControlError
from controlstack.faces.ui import presets, sent, stack, values, weight_plot
from controlstack.faces.ui.fields import FIELDS, LISTED
from controlstack.faces.ui.presets import Presets
from controlstack.faces.ui.stack import Stack
from controlstack.faces.ui.stock import Stock
from controlstack.unit import ControlNetUnit, WeightType, parse

AT_REST = {field.name: field.default for field in FIELDS} | {"independent": True}
PICTURE = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)


def named(*names: str, shown: int | None = None) -> Stack:
    units = tuple({**AT_REST, "model": name, "enabled": bool(name)} for name in names)
    return Stack(units, len(names) if shown is None else shown)


def models(made: Stack) -> list[str]:
    return [str(unit["model"]) for unit in made.units]


@pytest.mark.parametrize(
    ("do", "unit", "expected", "shown"),
    [
        ("up", 1, "bac", 3),
        ("up", 0, "abc", 3),
        ("down", 0, "bac", 3),
        ("down", 2, "abc", 3),
        ("remove", 0, "bc-", 2),
        ("remove", 2, "ab-", 2),
        ("mute", 1, "abc", 3),
        ("solo", 1, "abc", 3),
    ],
)
def test_commands(do: str, unit: int, expected: str, shown: int) -> None:
    made = stack.after(named("a", "b", "c"), do, unit, AT_REST)
    assert models(made) == ["None" if name == "-" else name for name in expected]
    assert made.shown == shown
    if do == "solo":
        assert [one["enabled"] for one in made.units] == [False, True, False]
    if do == "mute":
        assert [one["enabled"] for one in made.units] == [True, False, True]


def test_duplicate_takes_a_spare_unit_and_stops_where_none_is_left() -> None:
    made = stack.after(named("a", "b", "", shown=2), "duplicate", 0, AT_REST)
    assert (models(made), made.shown) == (["a", "a", "b"], 3)
    for do in ("duplicate", "add"):
        with pytest.raises(ControlError, match="no room"):
            stack.after(made, do, 0, AT_REST)


def test_units_that_are_on_take_turns_on_the_pictures_of_a_batch() -> None:
    muted = stack.after(named("a", "b", "c"), "mute", 1, AT_REST)
    dealt = stack.after(muted, "turns", 0, AT_REST)
    assert [one["batch_weights"] for one in dealt.units] == ["1, 0", "", "0, 1"]
    assert [values.unit(one).batch_weights for one in dealt.units] == [[1.0, 0.0], None, [0.0, 1.0]]
    assert stack.after(dealt, "turns", 0, AT_REST) == muted


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"do": "fly"}', '{"do": "up", "unit": "x"}', "7", "null"])
def test_what_is_no_command_is_told(text: str) -> None:
    with pytest.raises(ControlError):
        stack.read(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(stack.COMMANDS), st.integers(-1, 5)), max_size=12))
def test_no_sequence_of_commands_loses_a_unit_that_was_not_removed(
    commands: list[tuple[str, int]],
) -> None:
    made, removed = named("a", "b", "c", "", "", shown=3), 0
    for do, unit in commands:
        try:
            before, made = made, stack.after(made, do, unit, AT_REST)
        except ControlError:
            continue
        removed += do == "remove"
        assert len(made.units) == 5
        assert 1 <= made.shown <= 5
        assert set(models(made)) <= set(models(before)) | {"None"}
        assert not any(one["enabled"] for one in made.units[made.shown :])
    if not removed:
        assert {"a", "b", "c"} <= set(models(made))


def test_a_row_tells_what_a_unit_does_and_nothing_can_be_put_into_it() -> None:
    units = named("<script>alert(1)</script> [00000000]", "b")
    shaped = {
        **units.units[0],
        "picture": PICTURE,
        "guidance_start": 0.2,
        "guidance_end": 0.8,
        "weight": 0.75,
    }
    html = stack.rows(Stack((shaped, units.units[1]), 2))
    assert "<script" not in html
    assert [int(n) for n in re.findall(r'class="cnet-row [^"]*" data-unit="(\d)"', html)] == [0, 1]
    assert "margin-left:20%;width:60%" in html
    assert ">0.75<" in html
    assert html.count("data:image/jpeg;base64,") == 1
    assert [html.count(f'data-do="{do}"') for do in stack.COMMANDS] == [2, 2, 2, 2, 2, 2, 0, 0]


# Presets


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "etcpasswd"),
        ("..", ""),
        ("a/b\\c", "abc"),
        ("姿势 1", "姿势 1"),
        (" . ", ""),
        ("con:\0<>|?*", "con"),
        ("x" * 300, "x" * 80),
        (".hidden", "hidden"),
    ],
)
def test_a_presets_name_is_no_path(name: str, kept: str, tmp_path: Path) -> None:
    assert presets.tidy(name) == kept
    folder = tmp_path / "presets"
    text = presets.write([parse({"module": "canny", "model": "a"})])
    if not kept:
        with pytest.raises(ControlError, match="no name"):
            Presets(folder).save(name, text)
        return
    assert Presets(folder).save(name, text) == kept
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [f"{kept}.json"]
    assert Presets(folder).load(name) == text
    assert Presets(folder).names() == [kept]
    Presets(folder).delete(name)
    assert Presets(folder).names() == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(UNITS, min_size=1, max_size=3))
def test_a_preset_is_read_back(units: list[dict[str, Any]]) -> None:
    for unit in units:
        start, end = unit.pop("window")
        unit.update(guidance_start=start, guidance_end=end)
    typed = [parse(unit) for unit in units]
    assert presets.read(presets.write(typed)) == typed


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"units": [{}]}', '{"controlstack_preset": 1, "units": []}',
     '{"controlstack_preset": 1, "units": [7]}', '{"controlstack_preset": 1, "units": [{"weight": 9}]}',
     json.dumps({"controlstack_preset": 1, "units": [{}] * 11}), "x" * (2 << 20), "[" * 100_000],
)  # fmt: skip
def test_what_is_no_preset_is_told(text: str) -> None:
    with pytest.raises(ControlError):
        presets.read(text)


def test_a_preset_brings_no_pictures() -> None:
    unit = parse({"model": "a", "image": PICTURE})
    assert "image" not in presets.write([unit])
    told = {"controlstack_preset": 1, "units": [{"model": "a", "image": "c2VjcmV0"}]}
    assert presets.read(json.dumps(told))[0].image is None


# What will be sent


def test_what_is_sent_makes_the_same_unit() -> None:
    mask = np.zeros((8, 6), np.uint8)
    page = {**AT_REST, "enabled": True, "module": "canny", "model": "a", "picture": PICTURE, "weight": 0.5}
    page |= {"weight_curve": "0@0, 1@1", "hires_on": True, "hires_weight": 0.25, "region_on": True}
    unit = parse(values.unit({**page, "region": mask}))
    told = json.loads(sent.as_json(sent.as_api(unit, pictures=True)))
    back = parse(told)
    plain = [name for name in vars(unit) if name not in sent.PICTURES]
    assert {name: getattr(back, name) for name in plain} == {name: getattr(unit, name) for name in plain}
    assert told.keys() == {
        *("enabled", "module", "model", "weight", "weight_curve", "hires", "image", "effective_region_mask")
    }
    from controlstack import image

    assert np.array_equal(image.inputs(back.image)[0].rgb, PICTURE)


def test_several_pictures_are_sent_as_a_list() -> None:
    unit = ControlNetUnit(enabled=True, model="a", image=[{"image": PICTURE}, {"image": PICTURE}])
    told = sent.as_api(unit, pictures=True)
    assert [list(one) for one in told["image"]] == [["image"], ["image"]]
    assert sent.shortened(told)["image"][0]["image"].startswith("(base64 of a PNG")


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_the_programs_send_that_unit(tab: str, tmp_path: Path) -> None:
    """Python is compiled and its request taken out of it; the shell's is between the lines that mark it."""
    unit = parse({"module": "canny", "model": "it's 'quoted' $(date) `x` \\ \"y\"", "enabled": True})
    told = sent.as_api(unit, pictures=True)
    curl = sent.as_curl(told, "ControlNet", tab)
    request = json.loads(curl.partition("<<'REQUEST'\n")[2].rpartition("\nREQUEST")[0])
    assert request["alwayson_scripts"]["ControlNet"]["args"] == [told]
    assert f"/sdapi/v1/{tab} " in curl
    program = sent.as_python(told, "ControlNet", tab)
    compile(program, "sent", "exec")
    line = next(line for line in program.splitlines() if line.startswith("body = "))
    body: dict[str, Any] = {}
    exec(f"import json\n{line}", body)  # noqa: S102  our own line
    assert body["body"] == request


# Weights of layers


def test_the_plot_has_a_bar_for_each_layer(tmp_path: Path) -> None:
    model(tmp_path, "ip-adapter_sd15", "ip_adapter-sd15")
    stock = Stock(PanelHost(tmp_path, SD1))
    page = {**AT_REST, "model": "ip-adapter_sd15"}
    plot = weight_plot.svg({**page, "weight_type": WeightType.STYLE.value, "weight": 0.5}, stock)
    assert plot.count("<rect") == 16
    assert plot.count(": 0.5<") == 11, "style is in 11 of SD1's 16 layers"
    listed = weight_plot.svg({**page, "weight_type": LISTED, "advanced_weighting": "1, -1"}, stock)
    assert (listed.count("<rect"), 'y="30" width="14" height="15"' in listed) == (2, True)
    assert weight_plot.svg({**page, "model": "None"}, stock) == ""
    assert weight_plot.svg({**page, "weight_type": LISTED, "advanced_weighting": "many"}, stock) == ""
