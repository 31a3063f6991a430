from __future__ import annotations

import logging
import string
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlstack import image
from controlstack.curve import Curve
from controlstack.faces import infotext as face
from controlstack.unit import (
    INFOTEXT,
    ControlMode,
    ControlNetUnionControlType,
    ControlNetUnit,
    HiResFixOption,
    PuLIDMode,
    ResizeMode,
    WeightType,
    infotext,
    parse,
)

names = st.text(string.printable + "äß線", min_size=1, max_size=30).map(str.strip)
names = names.filter(lambda name: name and not name.lower().startswith("none"))
share = st.floats(0, 1)
LAYERS = st.lists(st.floats(-10, 10), min_size=1, max_size=13)
UNITS = st.fixed_dictionaries(
    {
        "module": names,
        "model": names.map(lambda stem: f"{stem} [0123abcd]"),
        "weight": st.floats(0, 2),
        "resize_mode": st.sampled_from(ResizeMode),
        "processor_res": st.integers(64, 2048),
        "threshold_a": st.floats(-1, 256),
        "threshold_b": st.floats(-1, 256),
        "window": st.tuples(share, share).map(sorted),
        "pixel_perfect": st.booleans(),
        "control_mode": st.sampled_from(ControlMode),
        "hr_option": st.sampled_from(HiResFixOption),
        "union_control_type": st.sampled_from(ControlNetUnionControlType),
        "pulid_mode": st.sampled_from(PuLIDMode),
        "inpaint_crop_input_image": st.booleans(),
        "advanced_weighting": st.none() | st.sampled_from(WeightType) | LAYERS,
        "composition_weight": st.floats(0, 2),
        "weight_curve": st.none() | st.sampled_from(["0@0, 1@0.2, 0@1", "1@0, 0.5@1 smooth"]),
        "negative_weight": st.floats(0, 1),
        "batch_weights": st.none() | st.lists(st.floats(0, 2), min_size=1, max_size=4),
        "hires": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "weight": st.floats(0, 2),
                "guidance_end": st.just(1.0),
                "control_mode": st.sampled_from(ControlMode),
                "advanced_weighting": st.sampled_from(WeightType) | LAYERS,
                "weight_curve": st.just("0@0, 1@1 smooth"),
            },
        ),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(UNITS)
def test_what_is_written_is_read_back(fields: dict[str, object]) -> None:
    start, end = fields.pop("window")
    unit = parse({**fields, "guidance_start": start, "guidance_end": end})
    back = face.unit(infotext(unit))
    assert {name: getattr(back, name) for name in INFOTEXT} == {n: getattr(unit, n) for n in INFOTEXT}
    assert back.enabled


def test_the_incumbents_text_sets_what_the_incumbent_would_set() -> None:
    """peer, ControlNetUnit.serialize and its paste locators "ControlNet 0 <field>"."""
    params = {
        "Prompt": "a house",
        "ControlNet 0": "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 0.8, Resize Mode: "
        "Resize and Fill, Processor Res: 512, Threshold A: 100, Threshold B: 200, Guidance Start: 0.1, "
        "Guidance End: 0.9, Pixel Perfect: True, Control Mode: My prompt is more important",
    }
    face.pasted(params)
    pasted = {
        key.removeprefix("ControlNet 0 "): v for key, v in params.items() if key.startswith("ControlNet 0 ")
    }
    assert pasted == {
        "enabled": True,
        "module": "canny",
        "model": "control_v11p_sd15_canny [d14c016b]",
        "weight": 0.8,
        "resize_mode": "Resize and Fill",
        "processor_res": 512,
        "threshold_a": 100.0,
        "threshold_b": 200.0,
        "guidance_start": 0.1,
        "guidance_end": 0.9,
        "pixel_perfect": True,
        "control_mode": "My prompt is more important",
        "hr_option": "Both",
        "union_control_type": "Unknown",
        "pulid_mode": "Fidelity",
        "inpaint_crop_input_image": True,
        "advanced_weighting": None,
        "weight_curve": None,
        "negative_weight": 1.0,
        "batch_weights": None,
        "hires": None,
        "combination": "Average",
        "composition_weight": 1.0,
    }
    assert all(type(pasted[name]) is str for name in ("resize_mode", "control_mode", "hr_option"))


def test_forges_text_with_its_none_and_without_its_defaults() -> None:
    text = "Module: None, Model: a [0123abcd], Weight: 1, Resize Mode: Crop and Resize, Guidance Start: 0, "
    unit = face.unit(
        text + "Guidance End: 1, Pixel Perfect: False, Control Mode: Balanced, Hr Option: Low res only"
    )
    assert (unit.module, unit.threshold_a, unit.hr_option) == ("none", -1, HiResFixOption.LOW_RES_ONLY)


def test_the_incumbent_reads_ours() -> None:
    """It splits at commas and then at colons, takes a key for a field's name, ignores those it does not know,
    and gives the whole unit up for a field whose value is wrong: ours must be right or unknown to it."""
    unit = parse({"module": "canny", "model": "a [0123abcd]", "advanced_weighting": [1, 0.5]})
    unit.weight_curve, unit.batch_weights = Curve.parse("0@0, 1@1 smooth"), [1.0, 0.5]
    unit.hires = {"weight": 0.5, "control_mode": ControlMode.PROMPT, "advanced_weighting": [1.0, 0.5]}
    unit.union_control_type, unit.inpaint_crop_input_image = ControlNetUnionControlType.HARD_EDGE, False
    read = dict(part.strip().split(": ") for part in infotext(unit).split(","))
    theirs = {key.lower().replace(" ", "_"): value for key, value in read.items()}
    assert "advanced_weighting" not in theirs
    assert theirs["union_control_type"] == "Hard Edge"
    assert theirs["inpaint_crop_input_image"] == "False"
    assert theirs["layer_weights"] == "1.0 0.5"


def test_a_curve_is_pasted_as_people_write_it() -> None:
    params: dict[str, object] = {"ControlNet 0": "Module: canny, Model: a, Weight Curve: 0@0 1@0.5 smooth"}
    face.pasted(params)
    assert params["ControlNet 0 weight_curve"] == "0@0, 1@0.5 smooth"


def test_a_mask_is_named_by_its_pixels() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5] = 255
    unit = parse({"model": "a", "mask": image.encode_png(mask), "effective_region_mask": mask.T})
    expected = sha256(mask.tobytes()).hexdigest()[:8]
    params: dict[str, object] = {"ControlNet 0": infotext(unit)}
    face.pasted(params)
    assert params["ControlNet 0 mask_hash"] == expected
    assert params["ControlNet 0 region_mask_hash"] == sha256(mask.T.tobytes()).hexdigest()[:8]


def test_a_unit_that_cannot_be_read_is_said_and_the_others_live(caplog: pytest.LogCaptureFixture) -> None:
    params: dict[str, object] = {
        "ControlNet 0": "Module: canny, Weight: heavy",
        "ControlNet 1": 'Module: "unfinished',
        "ControlNet 2": "Module: canny, Model: a",
        "ControlNet error": "ControlNet unit 0: ...",
        "ControlNet 3": None,
    }
    with caplog.at_level(logging.WARNING):
        found = face.units(params)
    assert list(found) == [2]
    assert "ControlNet 0 cannot be pasted: ControlNet: weight is 'heavy'" in caplog.text
    assert isinstance(found[2], ControlNetUnit)
