"""What clients and other extensions have sent over the years, and what it means.

Payloads are those of the named clients, pictures shortened; spellings of choices are those of the incumbent
(sd-webui-controlnet 1.0 to 1.1.455), Forge and reForge.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from dataclasses import dataclass, fields
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlstack.curve import Curve
from controlstack.errors import ControlError
from controlstack.unit import (
    ControlMode,
    ControlNetUnionControlType,
    ControlNetUnit,
    HiResFixOption,
    InputMode,
    PuLIDMode,
    ResizeMode,
    WeightType,
    in_hires,
    infotext,
    parse,
)

PIXELS = "iVBORw0KGgo="
CANNY = "control_v11p_sd15_canny [d14c016b]"


def differences(unit: ControlNetUnit) -> dict[str, Any]:
    """The fields in which a unit is not the default unit."""
    default = vars(ControlNetUnit())
    return {
        name: value
        for name, value in vars(unit).items()
        if value is not default[name] and value != default[name]
    }


PAYLOADS = {
    "webuiapi of 2024": (
        {
            "image": "",
            "mask": None,
            "module": "canny",
            "model": CANNY,
            "weight": 1.0,
            "resize_mode": "Resize and Fill",
            "low_vram": False,
            "processor_res": 512,
            "threshold_a": 64,
            "threshold_b": 64,
            "guidance_start": 0.0,
            "guidance_end": 1.0,
            "control_mode": "Balanced",
            "pixel_perfect": False,
            "hr_option": "Both",
            "enabled": True,
        },
        {
            "enabled": True,
            "module": "canny",
            "model": CANNY,
            "resize_mode": ResizeMode.OUTER_FIT,
            "processor_res": 512,
            "threshold_a": 64.0,
            "threshold_b": 64.0,
        },
    ),
    "webuiapi of early 2024, whose Balanced became a list": (
        {
            "input_image": PIXELS,
            "mask": None,
            "module": "none",
            "model": CANNY,
            "resize_mode": "Resize and Fill",
            "lowvram": False,
            "guidance": 0.9,
            "guidance_start": 0.0,
            "guidance_end": 0.9,
            "control_mode": ["Balanced"],
        },
        {
            "enabled": True,
            "model": CANNY,
            "image": PIXELS,
            "resize_mode": ResizeMode.OUTER_FIT,
            "guidance_end": 0.9,
        },
    ),
    "webuiapi of 2023, whose guidance keeps its default": (
        {
            "input_image": PIXELS,
            "mask": "",
            "module": "none",
            "model": CANNY,
            "resize_mode": "Scale to Fit (Inner Fit)",
            "lowvram": True,
            "guidance": 1.0,
            "guidance_start": 0.0,
            "guidance_end": 0.7,
            "guessmode": False,
        },
        {"enabled": True, "model": CANNY, "image": PIXELS, "low_vram": True, "guidance_end": 0.7},
    ),
    "Auto-Photoshop, padding": (
        {
            "enabled": False,
            "input_image": "",
            "mask": "",
            "module": "",
            "model": "",
            "weight": 1.0,
            "resize_mode": "Scale to Fit (Inner Fit)",
            "lowvram": False,
            "processor_res": 512,
            "threshold_a": 0,
            "threshold_b": 0,
            "guidance_start": 0,
            "guidance_end": 1,
            "guessmode": False,
            "control_mode": "Balanced",
            "pixel_perfect": True,
        },
        {
            "enabled": False,
            "processor_res": 512,
            "threshold_a": 0.0,
            "threshold_b": 0.0,
            "pixel_perfect": True,
        },
    ),
    "Auto-Photoshop, guess mode of before control modes": (
        {"enabled": True, "input_image": PIXELS, "module": "canny", "model": CANNY, "guessmode": True},
        {
            "enabled": True,
            "module": "canny",
            "model": CANNY,
            "image": PIXELS,
            "control_mode": ControlMode.CONTROL,
        },
    ),
    "AI-Render": ({"module": "depth", "model": CANNY}, {"enabled": True, "module": "depth", "model": CANNY}),
    "Blender-ControlNet": (
        {
            "mask": "",
            "module": "none",
            "model": "diff_control_sd15_depth_fp16 [978ef0a1]",
            "weight": 1.2,
            "resize_mode": "Scale to Fit (Inner Fit)",
            "lowvram": False,
            "processor_res": 64,
            "threshold_a": 64,
            "threshold_b": 64,
            "guidance": 1,
            "guidance_start": 0.19,
            "guidance_end": 1,
            "guessmode": False,
            "input_image": PIXELS,
        },
        {
            "enabled": True,
            "model": "diff_control_sd15_depth_fp16 [978ef0a1]",
            "weight": 1.2,
            "image": PIXELS,
            "processor_res": 64,
            "threshold_a": 64.0,
            "threshold_b": 64.0,
            "guidance_start": 0.19,
        },
    ),
    "cyanic-sd-krita": (
        {
            "module": "openpose_full",
            "model": None,
            "weight": 1.0,
            "resize_mode": 0,
            "lowvram": True,
            "preprocessor_res": 512,
            "threshold_a": -1,
            "threshold_b": -1,
            "guidance_start": 0.0,
            "guidance_end": 1.0,
            "control_mode": 2,
            "pixel_perfect": False,
            "input_image": PIXELS,
        },
        {
            "enabled": True,
            "module": "openpose_full",
            "image": PIXELS,
            "resize_mode": ResizeMode.RESIZE,
            "low_vram": True,
            "control_mode": ControlMode.CONTROL,
        },
    ),
    "clients that send everything as text": (
        {
            "enabled": "true",
            "module": "canny",
            "model": CANNY,
            "weight": "0.8",
            "resize_mode": "2",
            "control_mode": "1",
            "hr_option": "0",
            "processor_res": "512",
            "threshold_a": "100",
            "guidance_end": "0.5",
            "pixel_perfect": "False",
            "save_detected_map": "0",
        },
        {
            "enabled": True,
            "module": "canny",
            "model": CANNY,
            "weight": 0.8,
            "resize_mode": ResizeMode.OUTER_FIT,
            "control_mode": ControlMode.PROMPT,
            "processor_res": 512,
            "threshold_a": 100.0,
            "guidance_end": 0.5,
            "save_detected_map": False,
        },
    ),
    "api-payload-display": (
        {
            "advanced_weighting": None,
            "animatediff_batch": False,
            "batch_image_files": [],
            "batch_images": "/home/somebody/secret",
            "batch_keyframe_idx": None,
            "batch_mask_dir": "/home/somebody/secret",
            "batch_modifiers": [],
            "control_mode": "ControlNet is more important",
            "effective_region_mask": None,
            "enabled": True,
            "guidance_end": 0.8,
            "guidance_start": 0.1,
            "hr_option": "High res only",
            "image": {"image": PIXELS, "mask": None},
            "inpaint_crop_input_image": False,
            "input_mode": "batch",
            "ipadapter_input": None,
            "is_ui": True,
            "loopback": True,
            "low_vram": False,
            "mask": None,
            "model": CANNY,
            "module": "canny",
            "output_dir": "/home/somebody/.ssh",
            "pixel_perfect": True,
            "processor_res": 512,
            "pulid_mode": "Extremely style",
            "resize_mode": "Crop and Resize",
            "save_detected_map": True,
            "threshold_a": 100,
            "threshold_b": 200,
            "union_control_type": "Hard Edge",
            "weight": 1,
        },
        {
            "enabled": True,
            "module": "canny",
            "model": CANNY,
            "image": {"image": PIXELS, "mask": None},
            "processor_res": 512,
            "threshold_a": 100.0,
            "threshold_b": 200.0,
            "guidance_start": 0.1,
            "guidance_end": 0.8,
            "pixel_perfect": True,
            "control_mode": ControlMode.CONTROL,
            "inpaint_crop_input_image": False,
            "hr_option": HiResFixOption.HIGH_RES_ONLY,
            "pulid_mode": PuLIDMode.STYLE,
            "union_control_type": ControlNetUnionControlType.HARD_EDGE,
        },
    ),
    "Forge": (
        {
            "input_mode": "simple",
            "use_preview_as_input": False,
            "batch_image_dir": "/home/somebody/secret",
            "batch_mask_dir": "",
            "batch_input_gallery": [],
            "batch_mask_gallery": [],
            "generated_image": None,
            "mask_image": PIXELS,
            "mask_image_fg": None,
            "hr_option": "HiResFixOption.LOW_RES_ONLY",
            "enabled": True,
            "module": "None",
            "model": "None",
            "weight": 1,
            "image": PIXELS,
            "image_fg": None,
            "resize_mode": 1,
            "processor_res": 0.5,
            "control_mode": "My prompt is more important",
            "save_detected_map": True,
        },
        {
            "enabled": True,
            "image": PIXELS,
            "mask": PIXELS,
            "processor_res": 0,
            "hr_option": HiResFixOption.LOW_RES_ONLY,
            "control_mode": ControlMode.PROMPT,
        },
    ),
    "reForge": (
        {
            "image": {"image": PIXELS, "mask": PIXELS},
            "multi_inputs_gallery": [],
            "ipa_block_weight": "",
            "advanced_weighting": "[1, 0.5]",
            "module": "canny",
            "control_mode": "Prefer ControlNet",
        },
        {
            "enabled": True,
            "module": "canny",
            "image": {"image": PIXELS, "mask": PIXELS},
            "advanced_weighting": [1.0, 0.5],
            "control_mode": ControlMode.CONTROL,
        },
    ),
    "nothing": ({}, {"enabled": False}),
    "an empty unit with a picture": ({"image": PIXELS}, {"enabled": False, "image": PIXELS}),
    "null everywhere": (
        {known.name: None for known in fields(ControlNetUnit)},
        {"enabled": False},
    ),
}


@pytest.mark.parametrize(("payload", "meant"), PAYLOADS.values(), ids=PAYLOADS)
def test_payload_of_a_client(payload: dict[str, Any], meant: dict[str, Any]) -> None:
    before = copy.deepcopy(payload)
    unit = parse(payload)
    assert differences(unit) == meant
    assert payload == before
    assert parse(json.loads(json.dumps(vars(unit)))) == unit, (
        "a unit's own fields are a request for the same unit"
    )


class OldControlMode(Enum):
    """A class as it is after the page was reloaded: same values, another identity."""

    BALANCED = "Balanced"
    CONTROL = "ControlNet is more important"


class NumberedResizeMode(Enum):
    OUTER_FIT = 2


@dataclass
class ForgeUnit:
    """Forge's fields that matter here, with its defaults."""

    batch_mask_dir: str = ""
    batch_input_gallery: list[str] | None = None
    mask_image: np.ndarray | None = None
    hr_option: str = "HiResFixOption.BOTH"
    enabled: bool = True
    module: str = "None"
    model: str = "None"
    weight: float = 1.0
    image: np.ndarray | None = None
    resize_mode: Any = NumberedResizeMode.OUTER_FIT
    processor_res: float = 512.0
    control_mode: Any = OldControlMode.CONTROL


def test_unit_of_a_foreign_class() -> None:
    picture, mask = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)
    unit = parse(ForgeUnit(image=picture, mask_image=mask, module="canny"))
    assert unit.image is picture
    assert unit.mask is mask
    assert type(unit.processor_res) is int
    assert (unit.resize_mode, unit.control_mode) == (ResizeMode.OUTER_FIT, ControlMode.CONTROL)
    assert parse(SimpleNamespace(module="canny", model=None, enabled=False)) == ControlNetUnit(
        module="canny", enabled=False
    )


def test_unit_as_adetailer_builds_it() -> None:
    """ADetailer's controlnet_ext: no `enabled`, and `module` may be None."""
    built = ControlNetUnit(
        model="control_v11p_sd15_inpaint [ebff9138]",
        weight=0.7,
        control_mode=ControlMode.BALANCED,
        module=None,
        guidance_start=0.0,
        guidance_end=1.0,
        pixel_perfect=True,
    )
    assert built.module is None, "the constructor leaves what it is given alone"
    assert differences(parse(built)) == {
        "enabled": True,
        "model": "control_v11p_sd15_inpaint [ebff9138]",
        "weight": 0.7,
        "pixel_perfect": True,
    }
    assert built.enabled is None


def test_constructor_drops_keywords_that_are_no_field() -> None:
    """Deforum and older scripts still pass fields of ControlNet 1.0."""
    unit = ControlNetUnit(module="canny", invert_image=False, rgbbgr_mode=False, guess_mode=True)
    assert unit == ControlNetUnit(module="canny")
    assert parse(unit).control_mode is ControlMode.BALANCED


def test_fields_stand_in_the_incumbents_order() -> None:
    """The page fills a unit by position; other extensions read the names from `vars(ControlNetUnit())`."""
    incumbent = (
        "is_ui input_mode batch_images output_dir loopback enabled module model weight image resize_mode "
        "low_vram processor_res threshold_a threshold_b guidance_start guidance_end pixel_perfect "
        "control_mode inpaint_crop_input_image hr_option save_detected_map advanced_weighting "
        "effective_region_mask pulid_mode union_control_type ipadapter_input mask batch_mask_dir "
        "animatediff_batch batch_modifiers batch_image_files batch_keyframe_idx"
    )
    ours = "weight_curve negative_weight batch_weights hires combination composition_weight"
    assert list(vars(ControlNetUnit())) == [*incumbent.split(), *ours.split()]


def test_schedules_beyond_the_incumbents() -> None:
    sent = {"weight_curve": "0@0, 1@1 smooth", "negative_weight": "0.5", "batch_weights": "[1, 0.25]"}
    unit = parse({**sent, "weight": 0.8, "hires": '{"weight": 0.5, "control_mode": 1}'})
    assert unit.weight_curve == Curve(((0.0, 0.0), (1.0, 1.0)), smooth=True)
    assert (unit.negative_weight, unit.batch_weights) == (0.5, [1.0, 0.25])
    second = in_hires(unit)
    assert (second.weight, second.control_mode, second.hires) == (0.5, ControlMode.PROMPT, None)
    assert second.weight_curve == unit.weight_curve
    assert parse(vars(unit)) == unit


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        ({"weight_curve": 3}, "weight_curve"),
        ({"weight_curve": "0-1"}, "weight curve"),
        ({"negative_weight": 1.5}, "negative_weight"),
        ({"batch_weights": [3]}, "batch_weights"),
        ({"hires": {"model": "a"}}, "hires"),
        ({"hires": [1]}, "hires"),
        ({"hires": {"weight": 9}}, "hires.weight"),
        ({"guidance_end": 0.5, "hires": {"guidance_start": 0.7}}, "guidance_start"),
    ],
)
def test_schedules_that_cannot_be(sent: dict[str, object], fault: str) -> None:
    with pytest.raises(ControlError, match=fault):
        parse(sent)


def test_page_keeps_its_own_fields_and_its_lists() -> None:
    built = ControlNetUnit(
        is_ui=True, input_mode="batch", batch_images="in", output_dir="out", batch_modifiers=[len]
    )
    unit = parse(built)
    assert (unit.is_ui, unit.input_mode, unit.batch_images, unit.output_dir) == (
        True,
        InputMode.BATCH,
        "in",
        "out",
    )
    unit.batch_modifiers.append(max)
    unit.batch_image_files.append("a.png")
    assert (built.batch_modifiers, built.batch_image_files) == ([len], [])
    assert ControlNetUnit().batch_image_files == []


@pytest.mark.parametrize(
    ("unit", "on"),
    [
        ({"module": "canny"}, True),
        ({"model": "m"}, True),
        ({"module": "None", "model": "none"}, False),
        ({"module": "canny", "model": "m", "enabled": False}, False),
        ({"enabled": True}, True),
        ({"module": "canny", "enabled": None}, True),
        (ControlNetUnit(), False),
        (ControlNetUnit(module=None, model="m"), True),
    ],
)
def test_a_unit_that_names_something_is_on(unit: object, on: bool) -> None:
    assert parse(unit).enabled is on


@pytest.mark.parametrize("kind", [True, False])
def test_on_and_off(kind: bool) -> None:
    spellings = {
        True: ["true", "True", " yes", "on", "1", 1, 1.0],
        False: ["false", "FALSE", "no", "off", "0", 0],
    }
    for spelling in [kind, np.bool_(kind), *spellings[kind]]:
        assert parse({"inpaint_crop_input_image": spelling}).inpaint_crop_input_image is kind


SPELLINGS: list[tuple[Any, list[object]]] = [
    (InputMode.SIMPLE, ["simple", "Simple", "SIMPLE", 0]),
    (InputMode.BATCH, ["batch", 1]),
    (InputMode.MERGE, ["merge", "InputMode.MERGE", 2]),
    (ResizeMode.RESIZE, ["Just Resize", "just resize", "RESIZE", 0, "0", 3, "3", 7, 0.0]),
    (
        ResizeMode.INNER_FIT,
        ["Crop and Resize", "Inner Fit (Scale to Fit)", "Scale to Fit (Inner Fit)", 1, "1"],
    ),
    (ResizeMode.INNER_FIT, ["INNER_FIT", "ResizeMode.INNER_FIT", "scale to fit (inner fit)", 1.0, "1.0"]),
    (
        ResizeMode.OUTER_FIT,
        ["Resize and Fill", "Outer Fit (Shrink to Fit)", "Envelope (Outer Fit)", 2, " 2 "],
    ),
    (ResizeMode.OUTER_FIT, [NumberedResizeMode.OUTER_FIT, np.int64(2)]),
    (
        ControlMode.BALANCED,
        ["Balanced", "BALANCED", "balanced", 0, "0", ["Balanced"], OldControlMode.BALANCED],
    ),
    (ControlMode.PROMPT, ["My prompt is more important", "Prefer Prompt", "prompt", 1, "1"]),
    (ControlMode.CONTROL, ["ControlNet is more important", "Prefer ControlNet", "ControlMode.CONTROL", 2]),
    (ControlMode.CONTROL, [OldControlMode.CONTROL, "controlnet is more important"]),
    (HiResFixOption.BOTH, ["Both", "both", "HiResFixOption.BOTH", 0, "0"]),
    (HiResFixOption.LOW_RES_ONLY, ["Low res only", "low res only", "LOW_RES_ONLY", 1]),
    (HiResFixOption.HIGH_RES_ONLY, ["High res only", "HiResFixOption.HIGH_RES_ONLY", 2, "2"]),
    (PuLIDMode.FIDELITY, ["Fidelity", "fidelity", 0]),
    (PuLIDMode.STYLE, ["Extremely style", "STYLE", 1]),
    (ControlNetUnionControlType.OPENPOSE, ["OpenPose", "openpose", 0]),
    (ControlNetUnionControlType.DEPTH, ["Depth", "depth", 1]),
    (ControlNetUnionControlType.SOFT_EDGE, ["Soft Edge", "SOFT_EDGE", "softedge", "SoftEdge", "scribble", 2]),
    (ControlNetUnionControlType.HARD_EDGE, ["Hard Edge", "canny", "Lineart", "MLSD", "mlsd", 3, "3"]),
    (ControlNetUnionControlType.NORMAL_MAP, ["Normal Map", "NormalMap", "normalmap", 4]),
    (ControlNetUnionControlType.SEGMENTATION, ["Segmentation", "segmentation", 5]),
    (ControlNetUnionControlType.TILE, ["Tile", "tile", "blur", 6]),
    (ControlNetUnionControlType.INPAINT, ["Inpaint", "inpaint", 7]),
    (ControlNetUnionControlType.UNKNOWN, ["Unknown", "unknown", 8]),
]


@pytest.mark.parametrize(("member", "spellings"), SPELLINGS)
def test_every_spelling_of_a_choice(member: Enum, spellings: list[object]) -> None:
    for spelling in [member, member.value, member.name, f"{type(member).__name__}.{member.name}", *spellings]:
        assert type(member)(spelling) is member
    assert json.dumps(member) == f'"{member.value}"'
    assert f"{member}" == str(member) == member.value, "the same in infotexts of Python 3.10 and 3.13"


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        None,
        -1,
        0.5,
        9,
        "",
        "()",
        "nonsense",
        "ControlMode",
        math.nan,
        ["Both", "Both"],
        [["Both"]],
        {},
    ],
)
@pytest.mark.parametrize("kind", [ControlMode, HiResFixOption, PuLIDMode, ControlNetUnionControlType])
def test_no_such_choice(kind: type[Enum], value: object) -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        kind(value)


NO_CONTROL_MODE = (
    "There is no such choice. "
    "Give one of 'Balanced', 'My prompt is more important', 'ControlNet is more important'."
)

ERRORS = [
    ({"weight": 2.5}, "weight is 2.5. It has to be a number from 0 to 2. Give a number from 0 to 2."),
    ({"weight": -0.1}, "weight is -0.1. It has to be a number from 0 to 2. Give a number from 0 to 2."),
    ({"weight": "much"}, "weight is 'much'. It has to be a number from 0 to 2. Give a number from 0 to 2."),
    ({"weight": True}, "weight is True. It has to be a number from 0 to 2. Give a number from 0 to 2."),
    ({"weight": math.nan}, "weight is nan. It has to be a number from 0 to 2. Give a number from 0 to 2."),
    ({"guidance": 1.1}, "guidance is 1.1. It has to be a number from 0 to 1. Give a number from 0 to 1."),
    (
        {"guidance_start": 0.8, "guidance_end": 0.3},
        "guidance_start is 0.8. That is after guidance_end, which is 0.3. "
        "Give a guidance_start that is not above guidance_end.",
    ),
    ({"threshold_a": math.inf}, "threshold_a is inf. It has to be a finite number. Give a number."),
    ({"processor_res": "wide"}, "processor_res is 'wide'. It has to be a finite number. Give a number."),
    ({"processor_res": [512]}, "processor_res is [512]. It has to be a finite number. Give a number."),
    ({"control_mode": "banana"}, f"control_mode is 'banana'. {NO_CONTROL_MODE}"),
    ({"control_mode": 3}, f"control_mode is 3. {NO_CONTROL_MODE}"),
    ({"control_mode": True}, f"control_mode is True. {NO_CONTROL_MODE}"),
    ({"pixel_perfect": "maybe"}, "pixel_perfect is 'maybe'. It is either on or off. Give true or false."),
    ({"lowvram": 2}, "lowvram is 2. It is either on or off. Give true or false."),
    ({"module": 5}, "module is 5. It has to be text. Give module as a string."),
    ({"model": ["m"]}, "model is ['m']. It has to be text. Give model as a string."),
    (
        {"advanced_weighting": "1, 0.9"},
        "advanced_weighting is '1, 0.9'. It has to be a list of numbers. "
        "Give one factor per layer, as [1, 0.9].",
    ),
    (
        {"model": "m" * 1001},
        "model is 'mmmmmmmmmmmm...mmmmmmmmmmmmm'. It has 1001 letters. Give at most 1000.",
    ),
    (
        {"advanced_weighting": [1, -1e38]},
        "advanced_weighting[1] is -1e+38. "
        "It has to be a number from -10 to 10. Give a number from -10 to 10.",
    ),
    (
        {"advanced_weighting": [1, "x"]},
        "advanced_weighting[1] is 'x'. It has to be a number from -10 to 10. Give a number from -10 to 10.",
    ),
    (
        {"guidance": 0.4, "guidance_end": 0.5},
        "guidance_end is 0.5 and guidance is 0.4. Both are names of the same field. Send guidance_end alone.",
    ),
    (
        {"image": "abc", "input_image": "abd"},
        "image is 'abc' and input_image is 'abd'. Both are names of the same field. Send image alone.",
    ),
    (
        {"mask": "abc", "mask_image": np.zeros(1)},
        "mask is 'abc' and mask_image is array([0.]). Both are names of the same field. Send mask alone.",
    ),
    *(
        (
            value,
            f"A ControlNet unit cannot be made of {value!r}. "
            "A unit is an object with fields such as module and model. "
            'Send an object, for example {"module": "canny", "model": "control_v11p_sd15_canny"}.',
        )
        for value in (5, "canny", [], None, True)
    ),
]


@pytest.mark.parametrize(("value", "sentences"), ERRORS)
def test_mistakes_are_told_in_three_sentences(value: object, sentences: str) -> None:
    with pytest.raises(ControlError) as caught:
        parse(value)
    assert str(caught.value) == f"ControlNet: {sentences}"
    assert all((caught.value.what, caught.value.why, caught.value.fix))


def test_a_picture_in_the_wrong_field_does_not_flood_the_error() -> None:
    with pytest.raises(ControlError) as caught:
        parse({"weight": PIXELS * 100_000})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "payload",
    [
        {"guidance_end": 0.5, "guidance": "0.5"},
        {"guidance_end": 0.5, "guidance": None},
        {"guidance_end": "", "guidance": 0.5},
        {"guidance_end": 0.5, "guidance": 1.0},
        {"guidance": 0.5},
    ],
)
def test_two_names_that_do_not_contradict(payload: dict[str, object]) -> None:
    assert parse(payload).guidance_end == 0.5


def test_one_array_under_two_names() -> None:
    picture = np.zeros((2, 2))
    assert parse({"image": picture, "input_image": picture}).image is picture


@pytest.mark.parametrize(
    ("field", "given_value", "meant"),
    [
        ("guidance_end", 1 + 1e-7, 1.0),
        ("guidance_start", -1e-7, 0.0),
        ("weight", 2 + 1e-7, 2.0),
        ("weight", np.float32(0.5), 0.5),
        ("processor_res", 512.7, 512),
        ("processor_res", "512.7", 512),
        ("threshold_a", "-1", -1.0),
        ("advanced_weighting", "[]", None),
        ("advanced_weighting", (1, "0.5"), [1.0, 0.5]),
        ("advanced_weighting", "Style_Transfer", WeightType.STYLE),
        ("ipadapter_input", "abc", ["abc"]),
        ("ipadapter_input", ["abc"], ["abc"]),
        ("ipadapter_input", [], None),
        ("module", " canny ", "canny"),
        ("module", "NONE", "none"),
        ("module", " " * 9, "none"),
        ("model", " none ", "None"),
        ("union_control_type", "none", ControlNetUnionControlType.UNKNOWN),
    ],
)
def test_values(field: str, given_value: object, meant: object) -> None:
    value = getattr(parse({field: given_value}), field)
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize(
    ("payload", "mode"),
    [
        ({"guess_mode": True}, ControlMode.CONTROL),
        ({"guessmode": "true", "control_mode": None}, ControlMode.CONTROL),
        ({"guess_mode": True, "control_mode": "Balanced"}, ControlMode.BALANCED),
        ({"guess_mode": False}, ControlMode.BALANCED),
        ({"guessmode": {"odd": 1}}, ControlMode.BALANCED),
    ],
)
def test_guess_mode(payload: dict[str, object], mode: ControlMode) -> None:
    assert parse(payload).control_mode is mode


def test_unknown_keys_are_named_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        parse({"wieght": 1, "invert_image": False, "module": "canny", "is_ui": True, "guess_mode": False})
    assert [record.getMessage() for record in caplog.records] == [
        "A ControlNet unit has no fields 'invert_image', 'wieght': ignored"
    ]
    caplog.clear()
    for payload, _ in (PAYLOADS["Forge"], PAYLOADS["reForge"], PAYLOADS["api-payload-display"]):
        parse(payload)
    assert not caplog.records


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    [*vars(ControlNetUnit()), "guidance", "lowvram", "input_image", "mask_image", "guess_mode", "guessmode"]
)
likely = st.one_of(
    st.sampled_from([spelling for _, spellings in SPELLINGS for spelling in spellings]),
    st.floats(0, 1),
    st.integers(-1, 3).map(str),
    st.sampled_from(["true", "None", "", "[1, 0.5]", "[[", "1e999", "nan", "-0"]),
)


@settings(deadline=None)
@given(st.dictionaries(names | st.text(max_size=8), likely | json_values, max_size=6))
def test_any_dict_makes_a_unit_or_a_control_error(payload: dict[str, object]) -> None:
    try:
        unit = parse(payload)
    except ControlError:
        return
    assert parse(unit) == unit
    assert parse(unit) is not unit
    assert isinstance(unit.enabled, bool)
    assert 0 <= unit.guidance_start <= unit.guidance_end <= 1
    assert 0 <= unit.weight <= 2


def test_infotext_is_the_incumbents_with_the_hires_option() -> None:
    # peer, ControlNetUnit.serialize(): the same keys in the same order; hr_option is Forge's addition
    unit = parse(
        {"module": "canny", "model": CANNY, "processor_res": 512, "threshold_a": 100, "threshold_b": 200}
    )
    assert infotext(unit) == (
        f"Module: canny, Model: {CANNY}, Weight: 1.0, Resize Mode: Crop and Resize, Processor Res: 512, "
        "Threshold A: 100.0, Threshold B: 200.0, Guidance Start: 0.0, Guidance End: 1.0, "
        "Pixel Perfect: False, "
        "Control Mode: Balanced, Hr Option: Both"
    )
