"""What happens on the panel, without a page: the event functions, and sequences of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from panel_host import SD1, SDXL, PanelHost, model

from controlstack import preprocess
from controlstack.errors import ControlError
from controlstack.faces.ui import events, values
from controlstack.faces.ui.events import REACTIONS, Reaction
from controlstack.faces.ui.fields import BY_NAME, FIELDS, HIRES, LISTED, PLAIN
from controlstack.faces.ui.stock import Stock
from controlstack.unit import WeightType, parse

AT_REST = {field.name: field.default for field in FIELDS} | {"independent": True}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    folder = tmp_path_factory.mktemp("panel")
    model(folder, "control_v11p_sd15_canny", "controlnet-sd1")
    model(folder, "control_sd15_depth", "controlnet-sd1")
    model(folder, "diffusers_xl_canny_full", "controlnet-sdxl")
    model(folder, "ip-adapter_sd15", "ip_adapter-sd15")
    (folder / "models" / "canny_broken.safetensors").write_bytes(b"nothing")
    return Stock(PanelHost(folder))


class Page:
    """A page without a browser: components' properties, changed as gradio changes them. What an update
    changes is a change, too, and is answered."""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        kind = stock.control_type("All")
        self.shown: dict[str, dict[str, Any]] = {
            field.name: {
                "value": AT_REST[field.name],
                "visible": field.visible,
                "choices": list(field.choices),
                "minimum": field.span[0],
                "maximum": field.span[1],
            }
            for field in FIELDS
        }
        self.shown["module"]["choices"] = [one.label for one in kind.preprocessors]
        self.shown["model"]["choices"] = list(kind.models)
        self.shown["control_type"]["choices"] = list(stock.control_types())
        self.mistake = ""

    @property
    def values(self) -> dict[str, Any]:
        return {name: properties["value"] for name, properties in self.shown.items()}

    def touch(self, name: str, value: Any) -> None:
        """A person sets a component."""
        self.shown[name]["value"] = value
        self._answer(name, ("input", "release"))
        self._answer(name, ("change",))

    def _answer(self, name: str, kinds: tuple[str, ...], depth: int = 0) -> None:
        assert depth < 5, f"{name} sets itself for ever"
        for reaction in REACTIONS:
            if reaction.field == name and reaction.on in kinds:
                self._react(reaction, depth)

    def _react(self, reaction: Reaction, depth: int) -> None:
        before = self.values
        given = AT_REST | {name: before[name] for name in PLAIN}
        changes = reaction.event(given, self.stock) if reaction.event else {}
        assert changes.keys() <= set(reaction.outputs), reaction
        for name, change in changes.items():
            self.shown[name].update(change)
        for name, change in changes.items():
            if "value" in change and change["value"] != before[name]:
                self._answer(name, ("change",), depth + 1)

    def check(self) -> None:
        """The page and its unit say the same."""
        shown, page = self.shown, self.values
        for name, properties in shown.items():
            field = BY_NAME[name]
            if not properties["visible"] or name in {"module", "model"}:
                continue
            if field.kind in {"radio", "dropdown"}:
                assert properties["value"] in properties["choices"], name
            if field.kind == "slider":
                assert properties["minimum"] <= properties["value"] <= properties["maximum"], name
        assert page["module"] in shown["module"]["choices"]
        assert page["model"] in shown["model"]["choices"]
        chosen = preprocess.find(page["module"])
        assert shown["threshold_a"]["visible"] == (chosen.a is not None)
        assert shown["threshold_b"]["visible"] == (chosen.b is not None)
        visible = chosen.resolution is not None and not page["pixel_perfect"]
        assert shown["processor_res"]["visible"] == visible
        if chosen.a is None:
            assert page["threshold_a"] == -1
        for name in ("weight_type", "advanced_weighting", "composition_weight", *HIRES):
            if not shown[name]["visible"]:
                assert page[name] == BY_NAME[name].default, name
        self._check_unit()

    def _check_unit(self) -> None:
        unit = values.unit(self.values)
        try:
            typed = parse(unit)
        except ControlError:
            assert events.mistake(self.values, self.stock, 0)
            return
        back = AT_REST | values.of(typed)
        told = set(values.SAME_NAME) - {"weight_curve"}
        assert {name: back[name] for name in told} == {name: self.values[name] for name in told}
        assert parse(values.unit(back)) == typed


TYPED = {
    "weight_curve": ["", "0@0, 1@1", "0@0, 1@0.5, 0@1 smooth", "not a curve"],
    "hires_curve": ["", "1@0, 0.5@1"],
    "advanced_weighting": ["", "1, 0.5", "many"],
    "hires_layers": ["", "[1, 1]"],
    "batch_weights": ["", "1 0.8"],
}
"""What people type."""
TOUCHED = {"checkbox", "slider", "radio", "dropdown"}


def touch(page: Page, draw: Any) -> None:
    """A person sets any component that is shown."""
    able = [
        n
        for n, shown in page.shown.items()
        if shown["visible"] and (BY_NAME[n].kind in TOUCHED or n in TYPED)
    ]
    name = draw(st.sampled_from(able))
    shown, kind = page.shown[name], BY_NAME[name].kind
    if kind == "checkbox":
        page.touch(name, draw(st.booleans()))
    elif kind == "slider":
        value = draw(st.floats(shown["minimum"], shown["maximum"]))
        page.touch(name, round(value) if name == "processor_res" else value)
    else:
        page.touch(name, draw(st.sampled_from(TYPED.get(name) or shown["choices"])))


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_sequence_of_events_parts_the_page_from_its_unit(stock: Stock, data: st.DataObject) -> None:
    page = Page(stock)
    for _ in range(data.draw(st.integers(1, 5))):
        touch(page, data.draw)
        page.check()


def test_every_reaction_names_what_it_changes() -> None:
    names = {field.name for field in FIELDS}
    for reaction in REACTIONS:
        assert reaction.field in PLAIN
        assert set(reaction.outputs) <= names


def test_a_control_type_takes_its_pair_and_only_models_that_fit(stock: Stock) -> None:
    changes = events.control_type({**AT_REST, "control_type": "Canny"}, stock)
    assert changes["module"]["value"] == "canny"
    assert "control_v11p_sd15_canny" in changes["model"]["value"]
    listed = " ".join(changes["model"]["choices"])
    assert "diffusers_xl" not in listed
    assert "canny_broken" in listed
    assert changes["threshold_a"] == {
        "label": "Low Threshold",
        "visible": True,
        "value": 100,
        "minimum": 1,
        "maximum": 255,
        "step": 1,
    }


def test_a_control_type_leaves_a_pair_of_its_own(stock: Stock) -> None:
    """Gradio 4 tells of a person's choice also where pasted parameters set the type: then all is in place."""
    model = stock.control_type("Canny").default_model
    kept = {"module": "canny", "model": model, "threshold_a": 33}
    for name in ("All", "Canny"):
        page = {**AT_REST, **kept, "control_type": name}
        after = events.applied(page, events.control_type(page, stock))
        assert {key: after[key] for key in kept} == kept
    for other in ({"model": "None"}, {"model": "None", "module": "none"}, {"module": "shuffle"}):
        page = {**AT_REST, **kept, **other, "control_type": "Canny"}
        after = events.applied(page, events.control_type(page, stock))
        assert (after["module"], after["model"], after["threshold_a"]) == ("canny", model, 100)


def test_another_checkpoint_brings_other_models(stock: Stock) -> None:
    other = Stock(PanelHost(stock.host.folder, SDXL))  # type: ignore[attr-defined]
    listed = events.listed({**AT_REST, "control_type": "Canny"}, other)["model"]["choices"]
    assert any("diffusers_xl" in name for name in listed)
    assert not any("sd15_canny" in name for name in listed)
    none = Stock(PanelHost(stock.host.folder, None))  # type: ignore[attr-defined]
    assert len(events.listed({**AT_REST, "control_type": "Canny"}, none)["model"]["choices"]) == 4


def test_numbers_that_parameters_set_outlive_the_preprocessors_arrival(stock: Stock) -> None:
    page = {**AT_REST, "module": "canny", "threshold_a": 33, "threshold_b": 300, "processor_res": 768}
    changes = events.relabelled(page, stock)
    assert "value" not in changes["threshold_a"]
    assert "value" not in changes["processor_res"]
    assert changes["threshold_b"]["value"] == 200, "300 is beyond the slider"


def test_a_mistake_is_said_at_the_unit(stock: Stock) -> None:
    on = {**AT_REST, "enabled": True}
    assert "has no model" in events.mistake({**on, "module": "canny"}, stock, 0)
    assert "does not fit the checkpoint" in events.mistake(
        {**on, "model": "diffusers_xl_canny_full"}, stock, 1
    )
    assert "cannot be read" in events.mistake({**on, "model": "canny_broken"}, stock, 0)
    assert "weight curve" in events.mistake({**AT_REST, "weight_curve": "up"}, stock, 0)
    assert events.mistake({**on, "module": "canny", "model": "control_v11p_sd15_canny"}, stock, 0) == ""
    assert not events.mistake({**on, "model": "diffusers_xl_canny_full"}, stock, 1).startswith("ControlNet")


def test_a_preprocessor_that_cannot_run_says_why_and_how_to_mend_it(stock: Stock) -> None:
    lacking = next(one for one in preprocess.everything() if stock.fault(one) is not None)
    said = events.mistake({**AT_REST, "module": lacking.label}, stock, 0)
    assert "is not available" in said
    assert not events.mistake({**AT_REST, "module": lacking.label, "preview_as_input": True}, stock, 0)
    assert lacking.label in [one.label for one in stock.control_type("All").preprocessors]


def test_layers_are_weighed_where_the_model_has_some(stock: Stock) -> None:
    shown = events.model({**AT_REST, "model": "ip-adapter_sd15"}, stock)
    assert shown["weight_type"]["visible"]
    assert shown["combination"]["visible"]
    page = {**AT_REST, "model": "ip-adapter_sd15", "weight_type": WeightType.STYLE_AND_COMPOSITION.value}
    assert events.weight_type(page, stock)["composition_weight"]["visible"]
    assert events.model({**page, "model": "None"}, stock)["weight_type"] == {
        "visible": False,
        "value": LISTED,
    }


def test_html_in_a_name_stays_a_name(stock: Stock) -> None:
    said = events.as_html(events.mistake({**AT_REST, "model": "<img src=x onerror=1>"}, stock, 0))
    assert "&lt;img" in said
    assert "<img" not in said


@pytest.fixture
def five_hundred(tmp_path: Path) -> Path:
    first = model(tmp_path, "control_000_canny", "controlnet-sd1")
    other = model(tmp_path, "control_001_canny", "controlnet-sdxl")
    for number in range(2, 500):
        kind = ("canny", "depth", "openpose", "lineart")[number % 4]
        (first.parent / f"control_{number:03}_{kind}.safetensors").symlink_to((first, other)[number % 2])
    return tmp_path


def test_a_control_type_is_switched_quickly_among_five_hundred_models(five_hundred: Path) -> None:
    """Within 200 ms (issue 9), also before the files have been looked into; the assertion leaves a margin for
    slow machines. The default pair is the first that fits: no file of an even number does not."""
    stock = Stock(PanelHost(five_hundred, SD1))
    taken, listed = [], []
    for name in ("Canny", "Depth", "OpenPose", "Lineart", "Canny"):
        begun = time.process_time()
        changes = events.control_type({**AT_REST, "control_type": name}, stock)
        taken.append(time.process_time() - begun)
        listed = changes["model"]["choices"][1:]
    assert max(taken) < 1.0, taken
    while len(listed) > 125:
        listed = events.listed({**AT_REST, "control_type": "Canny"}, stock)["model"]["choices"][1:]
    assert all(int(name[8:11]) % 2 == 0 for name in listed)
