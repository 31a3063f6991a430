"""The words of a ControlNet request: the unit, its modes, and the one way from what people send to them."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from hashlib import sha256
from numbers import Real
from typing import Any
from urllib.parse import urlencode

from controlstack import image
from controlstack.curve import Curve
from controlstack.errors import ControlError
from controlstack.log import log


class _Choice(str, Enum):
    """A choice that goes over the wire as its label; its number is its place in the declaration.

    Called with a value, it understands the label and the member's name in any case and punctuation, with or
    without the class ("HiResFixOption.BOTH"), labels of other versions, numbers, numeric strings and members
    of other classes. Raises ValueError for all else.
    """

    old_labels: tuple[str, ...]

    def __new__(cls, label: object, *old_labels: str) -> _Choice:
        member = str.__new__(cls, label)
        member._value_ = label
        member.old_labels = old_labels
        return member

    def __str__(self) -> str:
        return str(self.value)

    @classmethod
    def _missing_(cls, value: object) -> _Choice | None:
        if isinstance(value, Enum):  # of a class that a UI reload or another extension defined
            value = value.value
        if isinstance(value, (list, tuple)) and len(value) == 1:  # webuiapi of early 2024 sent ["Balanced"]
            value = value[0]
        number = _number(value)
        if number is not None:
            return next((member for place, member in enumerate(cls) if place == number), None)
        if not isinstance(value, str):
            return None
        spelling = _letters(value)
        spellings = {spelling, spelling.removeprefix(_letters(cls.__name__))}
        return next((member for member in cls if spellings & member._spellings()), None)

    def _spellings(self) -> set[str]:
        return {_letters(text) for text in (self.value, self.name, *self.old_labels)}


class InputMode(_Choice):
    """Where the page's unit takes its pictures from."""

    SIMPLE = "simple"
    BATCH = "batch"
    MERGE = "merge"


class ResizeMode(_Choice):
    """How a hint of another aspect ratio is brought to the size of the picture."""

    RESIZE = "Just Resize"
    INNER_FIT = "Crop and Resize", "Inner Fit (Scale to Fit)", "Scale to Fit (Inner Fit)"
    OUTER_FIT = "Resize and Fill", "Outer Fit (Shrink to Fit)", "Envelope (Outer Fit)"

    @classmethod
    def _missing_(cls, value: object) -> _Choice | None:
        number = _number(value)
        if number is not None and number >= 3:  # 3 is img2img's "Just resize (latent upscale)"
            return cls.RESIZE
        return super()._missing_(value)


class ControlMode(_Choice):
    """What counts more where the prompt and the hint disagree. The other labels are reForge's."""

    BALANCED = "Balanced"
    PROMPT = "My prompt is more important", "Prefer Prompt"
    CONTROL = "ControlNet is more important", "Prefer ControlNet"


class HiResFixOption(_Choice):
    """The passes of a hires fix in which a unit acts."""

    BOTH = "Both"
    LOW_RES_ONLY = "Low res only"
    HIGH_RES_ONLY = "High res only"


class PuLIDMode(_Choice):
    """Whether PuLID keeps to the face or gives way to the style."""

    FIDELITY = "Fidelity"
    STYLE = "Extremely style"


class Combination(_Choice):
    """What several pictures in one unit are to a family that reads embeddings."""

    AVERAGE = "Average"
    CONCAT = "Concat"


class WeightType(_Choice):
    """Weights of an IP-Adapter's layers by a name; `weight_types` says which numbers they are."""

    NORMAL = "normal"
    EASE_IN = "ease in"
    EASE_OUT = "ease out"
    EASE_IN_OUT = "ease in-out"
    REVERSE_IN_OUT = "reverse in-out"
    WEAK_INPUT = "weak input"
    WEAK_OUTPUT = "weak output"
    WEAK_MIDDLE = "weak middle"
    STRONG_MIDDLE = "strong middle"
    STYLE = "style transfer"
    COMPOSITION = "composition"
    STRONG_STYLE = "strong style transfer"
    STYLE_AND_COMPOSITION = "style and composition"
    STRONG_STYLE_AND_COMPOSITION = "strong style and composition"


class ControlNetUnionControlType(_Choice):
    """What a hint shows, for networks trained on many kinds. A type's number is the one the networks use.

    A control type of the page ("Canny", "Lineart") is another name for the type that its hints belong to.
    """

    OPENPOSE = "OpenPose"
    DEPTH = "Depth"
    SOFT_EDGE = "Soft Edge", "scribble"
    HARD_EDGE = "Hard Edge", "canny", "lineart", "mlsd"
    NORMAL_MAP = "Normal Map"
    SEGMENTATION = "Segmentation"
    TILE = "Tile", "blur"
    INPAINT = "Inpaint"
    UNKNOWN = "Unknown"


@dataclass(init=False)
class ControlNetUnit:
    """What somebody asks of ControlNet, under the names of the wire. The page fills the fields in this order.

    Anyone may build one with whatever values they have (`module=None`, `resize_mode=1`). Keywords that are no
    field are dropped, as the incumbent drops them: scripts still pass `guess_mode` and `invert_image`.
    `parse` makes such a unit typed and checked.

    enabled: None means on if the unit names a model or a preprocessor. A unit without `enabled` was on in the
        incumbent up to 1.1.447 and still is in Forge, and is off in the incumbent since. Clients that send
        only `module` and `model`, and extensions that build such a unit, want it to run; an empty one asks
        for nothing.
    module, model: a preprocessor's name or label, or "none"; a model's name, or "None"
    weight: strength of the control, 0..2
    image, mask, effective_region_mask: pictures in any form that callers have them in, not decoded
    processor_res: px; threshold_a, threshold_b: the preprocessor's own numbers; -1 is its default
    guidance_start, guidance_end: share of the sampling pass in which the control acts, 0..1
    advanced_weighting: one factor per layer, -10..10, in place of weight; or a name for such factors, which
        weight multiplies
    ipadapter_input: embeddings made before, not decoded
    weight_curve: factors of the weight along the sampling pass, written as "0@0, 1@0.2, 1@0.6, 0@1"
    negative_weight: a further factor for the rows of the negative prompt, 0..1
    batch_weights: a further factor for each picture of the batch, 0..2, in turns
    hires: what is different in the high-resolution pass, some of weight, guidance_start, guidance_end,
        control_mode, advanced_weighting, weight_curve, negative_weight and composition_weight
    combination: whether several pictures count as their average or side by side
    composition_weight: strength of the layers that compose the picture, 0..2, where advanced_weighting is
        "style and composition" or "strong style and composition"
    """

    is_ui: bool = False
    input_mode: InputMode = InputMode.SIMPLE
    batch_images: object = None
    output_dir: str = ""
    loopback: bool = False
    enabled: bool | None = None
    module: str = "none"
    model: str = "None"
    weight: float = 1.0
    image: object = None
    resize_mode: ResizeMode = ResizeMode.INNER_FIT
    low_vram: bool = False
    processor_res: int = -1
    threshold_a: float = -1.0
    threshold_b: float = -1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    pixel_perfect: bool = False
    control_mode: ControlMode = ControlMode.BALANCED
    inpaint_crop_input_image: bool = True
    hr_option: HiResFixOption = HiResFixOption.BOTH
    save_detected_map: bool = True
    advanced_weighting: list[float] | WeightType | None = None
    effective_region_mask: object = None
    pulid_mode: PuLIDMode = PuLIDMode.FIDELITY
    union_control_type: ControlNetUnionControlType = ControlNetUnionControlType.UNKNOWN
    ipadapter_input: list[Any] | None = None
    mask: object = None
    batch_mask_dir: str | None = None
    animatediff_batch: bool = False
    batch_modifiers: list[Any] = field(default_factory=list)
    batch_image_files: list[Any] = field(default_factory=list)
    batch_keyframe_idx: str | list[Any] | None = None
    weight_curve: Curve | None = None
    negative_weight: float = 1.0
    batch_weights: list[float] | None = None
    hires: dict[str, Any] | None = None
    combination: Combination = Combination.AVERAGE
    composition_weight: float = 1.0

    def __init__(self, **given: Any) -> None:
        for known in fields(self):
            default = known.default if known.default_factory is MISSING else known.default_factory()
            setattr(self, known.name, given.get(known.name, default))

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> ControlNetUnit:
        """What other extensions call `parse`."""
        return parse(fields)


def parse(value: object) -> ControlNetUnit:
    """A new, typed and checked unit from what somebody sent.

    value: a dict (HTTP), a `ControlNetUnit`, or any object that has a unit's fields (Forge's unit, or one of
        a class from before a UI reload). It is not changed, no file is touched and no picture decoded.

    Nothing (None, "", "none" or an empty list) means the field's default. Raises ControlError for what is no
    unit, for a value that its field cannot have, and for a field given under two names with different values.
    """
    said = {name: given for name, given in _said(value).items() if not _says_nothing(given)}
    if "control_mode" not in said and any(str(said.get(name)).lower() in _ON for name in _GUESS_MODE):
        said["control_mode"] = ControlMode.CONTROL
    defaults = vars(ControlNetUnit())
    unit = ControlNetUnit(**{name: _settled(name, default, said) for name, default in defaults.items()})
    if unit.guidance_start > unit.guidance_end:
        raise _wrong(
            "guidance_start",
            unit.guidance_start,
            f"That is after guidance_end, which is {unit.guidance_end}",
            "Give a guidance_start that is not above guidance_end",
        )
    if unit.hires:
        in_hires(unit)
    if unit.enabled is None:
        unit.enabled = unit.module != defaults["module"] or unit.model != defaults["model"]
    return unit


def in_hires(unit: ControlNetUnit) -> ControlNetUnit:
    """A parsed unit as it is in the high-resolution pass."""
    return parse({**vars(unit), **(unit.hires or {}), "hires": None})


def _said(value: object) -> dict[str, object]:
    """The fields that `value` speaks of, by the names it uses."""
    if isinstance(value, Mapping):
        unknown = value.keys() - _SPOKEN - _PAGE_ONLY
        if unknown:
            log.warning("A ControlNet unit has no fields %s: ignored", ", ".join(sorted(map(repr, unknown))))
        return {name: value[name] for name in _SPOKEN - _PAGE_ONLY if name in value}
    if hasattr(value, "module") and hasattr(value, "model"):
        return {name: getattr(value, name) for name in _SPOKEN if hasattr(value, name)}
    raise ControlError(
        f"A ControlNet unit cannot be made of {reprlib.repr(value)}",
        "A unit is an object with fields such as module and model",
        'Send an object, for example {"module": "canny", "model": "control_v11p_sd15_canny"}',
    )


def _says_nothing(value: object) -> bool:
    if isinstance(value, str):
        return value.strip()[:5].lower() in ("", "none")
    return value is None or (isinstance(value, (list, tuple)) and not value)


def _settled(name: str, default: object, said: Mapping[str, object]) -> object:
    """The field's value, given under its name or its alias.

    A default does not contradict the other spelling: webuiapi of 2023 sent `guidance` 1.0 along with any
    `guidance_end`.
    """
    spellings = [spelling for spelling in (name, _ALIASES.get(name, name)) if spelling in said]
    values = {spelling: _PARSERS[name](spelling, said[spelling]) for spelling in spellings}
    values = {spelling: value for spelling, value in values.items() if not _same(value, default)}
    if len(values) > 1 and not _same(*values.values()):
        given = " and ".join(f"{spelling} is {reprlib.repr(value)}" for spelling, value in values.items())
        raise ControlError(given, "Both are names of the same field", f"Send {name} alone")
    return next(iter(values.values()), default)


def _same(one: object, other: object) -> bool:
    """Two arrays are the same only if they are one object: their == gives no yes or no."""
    return one is other or (type(one) is type(other) and isinstance(one, (str, int, float)) and one == other)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def _number(value: object) -> float | None:
    """A finite number, from a number or a numeric string; None for all else, True and False too."""
    if isinstance(value, bool) or not isinstance(value, (str, Real)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


_Parser = Callable[[str, object], object]
"""From the name that the caller used and the value they gave to the field's value."""


def _wrong(name: str, value: object, why: str, fix: str) -> ControlError:
    return ControlError(f"{name} is {reprlib.repr(value)}", why, fix)


def _as_given(_name: str, value: object) -> object:
    return value


def _many(_name: str, value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "It has to be text", f"Give {name} as a string")
    if len(value) > MAX_TEXT:
        raise _wrong(name, value, f"It has {len(value)} letters", f"Give at most {MAX_TEXT}")
    return value.strip()


MAX_TEXT = 1000
"""Most letters of a name or path."""
MAX_FACTOR = 10.0
"""Of one layer. Far larger ones leave the numbers that half precision has, and the picture is black."""

_ON = ("true", "1", "1.0", "yes", "on")
_OFF = ("false", "0", "0.0", "no", "off")


def _flag(name: str, value: object) -> bool:
    word = str(value).strip().lower()
    if word not in _ON + _OFF:
        raise _wrong(name, value, "It is either on or off", "Give true or false")
    return word in _ON


def _any_number(name: str, value: object) -> float:
    number = _number(value)
    if number is None:
        raise _wrong(name, value, "It has to be a finite number", "Give a number")
    return number


def _whole(name: str, value: object) -> int:
    return int(_any_number(name, value))


def _within(low: float, high: float) -> Callable[[str, object], float]:
    slack = 1e-6  # sliders and JSON round trips drift

    def parser(name: str, value: object) -> float:
        number = _number(value)
        if number is None or not low - slack <= number <= high + slack:
            bounds = f"from {low:g} to {high:g}"
            raise _wrong(name, value, f"It has to be a number {bounds}", f"Give a number {bounds}")
        return min(max(number, low), high)

    return parser


def _factors(low: float, high: float, each: str) -> Callable[[str, object], list[float] | None]:
    factor = _within(low, high)

    def parser(name: str, value: object) -> list[float] | None:
        listed = _unpacked(value)
        if not isinstance(listed, (list, tuple)):
            raise _wrong(
                name, value, "It has to be a list of numbers", f"Give one factor per {each}, as [1, 0.9]"
            )
        return [factor(f"{name}[{place}]", number) for place, number in enumerate(listed)] or None

    return parser


def _layers(name: str, value: object) -> object:
    named = isinstance(value, str) and value.strip()[:1].isalpha()
    parser = _choice(WeightType) if named else _factors(-MAX_FACTOR, MAX_FACTOR, "layer")
    return parser(name, value)


def _unpacked(value: object) -> object:
    """JSON inside a string, as forms send it, as the value it stands for; None if it is no JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _curve(name: str, value: object) -> Curve:
    if isinstance(value, Curve):
        return value
    if not isinstance(value, str):
        raise _wrong(name, value, "It has to be a text", "Give factors at shares, as 0@0, 1@0.2, 0@1")
    return Curve.parse(value)


def _overlay(name: str, value: object) -> dict[str, Any] | None:
    given = _unpacked(value)
    if not isinstance(given, Mapping) or not given.keys() <= _PER_PASS:
        fields = ", ".join(sorted(_PER_PASS))
        raise _wrong(name, value, f"It has to be an object with some of {fields}", 'As {"weight": 0.5}')
    return {key: _PARSERS[key](f"{name}.{key}", one) for key, one in given.items()} or None


def _choice(kind: type[_Choice]) -> _Parser:
    def parser(name: str, value: object) -> _Choice:
        try:
            return kind(value)
        except ValueError:
            labels = ", ".join(repr(member.value) for member in kind)
            raise _wrong(name, value, "There is no such choice", f"Give one of {labels}") from None

    return parser


_PARSERS: dict[str, _Parser] = {
    **dict.fromkeys(("enabled", "low_vram", "pixel_perfect", "inpaint_crop_input_image"), _flag),
    **dict.fromkeys(("save_detected_map", "is_ui", "loopback", "animatediff_batch"), _flag),
    **dict.fromkeys(("module", "model", "output_dir", "batch_mask_dir"), _text),
    **dict.fromkeys(("image", "mask", "effective_region_mask"), _as_given),
    **dict.fromkeys(("batch_images", "batch_keyframe_idx"), _as_given),
    **dict.fromkeys(("ipadapter_input", "batch_modifiers", "batch_image_files"), _many),
    **dict.fromkeys(("guidance_start", "guidance_end"), _within(0.0, 1.0)),
    **dict.fromkeys(("threshold_a", "threshold_b"), _any_number),
    "processor_res": _whole,
    "weight": _within(0.0, 2.0),
    "negative_weight": _within(0.0, 1.0),
    "advanced_weighting": _layers,
    "composition_weight": _within(0.0, 2.0),
    "batch_weights": _factors(0.0, 2.0, "picture"),
    "weight_curve": _curve,
    "hires": _overlay,
    "input_mode": _choice(InputMode),
    "resize_mode": _choice(ResizeMode),
    "control_mode": _choice(ControlMode),
    "hr_option": _choice(HiResFixOption),
    "pulid_mode": _choice(PuLIDMode),
    "combination": _choice(Combination),
    "union_control_type": _choice(ControlNetUnionControlType),
}

_PER_PASS = {
    *("weight", "guidance_start", "guidance_end", "control_mode"),
    *("advanced_weighting", "weight_curve", "negative_weight", "composition_weight"),
}

_ALIASES = {"guidance_end": "guidance", "low_vram": "lowvram", "image": "input_image", "mask": "mask_image"}

_GUESS_MODE = ("guess_mode", "guessmode")
"""On, it meant what "ControlNet is more important" means, before there was a control_mode."""

_SPOKEN = {*_PARSERS, *_ALIASES.values(), *_GUESS_MODE}

_PAGE_ONLY = {
    "animatediff_batch",
    "batch_image_dir",
    "batch_image_files",
    "batch_images",
    "batch_input_gallery",
    "batch_keyframe_idx",
    "batch_mask_dir",
    "batch_mask_gallery",
    "batch_modifiers",
    "generated_image",
    "image_fg",
    "input_mode",
    "ipa_block_weight",
    "is_ui",
    "loopback",
    "mask_image_fg",
    "multi_inputs_gallery",
    "output_dir",
    "use_preview_as_input",
}
"""What the pages of the incumbent, Forge and reForge keep in a unit. A request names no folders to use."""


INFOTEXT = {
    **{
        name: name.replace("_", " ").title()
        for name in (
            *("module", "model", "weight", "resize_mode", "processor_res", "threshold_a", "threshold_b"),
            *("guidance_start", "guidance_end", "pixel_perfect", "control_mode", "hr_option"),
            *("union_control_type", "pulid_mode", "inpaint_crop_input_image"),
        )
    },
    # By its own name the incumbent would read it, fail, and drop the unit: it takes no list from a text.
    "advanced_weighting": "Layer Weights",
    "weight_curve": "Weight Curve",
    "negative_weight": "Negative Weight",
    "batch_weights": "Batch Weights",
    "hires": "Hires",
    "combination": "Combination",
    "composition_weight": "Composition Weight",
}
"""What an infotext carries of a unit, and what it is called there."""
_ONLY_IF_SET = {
    *("union_control_type", "pulid_mode", "inpaint_crop_input_image", "advanced_weighting"),
    *("weight_curve", "negative_weight", "batch_weights", "hires", "combination", "composition_weight"),
}
_MASKS = {"mask": "Mask Hash", "effective_region_mask": "Region Mask Hash"}


def infotext(unit: ControlNetUnit) -> str:
    """A parsed unit as the picture's parameters tell it: "Module: canny, Model: name [hash], Weight: 1.0".

    The incumbent's format, which the incumbent reads; what it lacked follows where it is not the default. A
    mask is named by the first 8 hexadecimal digits of the SHA-256 of its pixels.
    """
    default = ControlNetUnit()
    told = {
        label: _as_text(getattr(unit, name))
        for name, label in INFOTEXT.items()
        if name not in _ONLY_IF_SET or getattr(unit, name) != getattr(default, name)
    }
    masks = {label: image.read_mask(getattr(unit, name), name) for name, label in _MASKS.items()}
    told |= {label: sha256(m.tobytes()).hexdigest()[:8] for label, m in masks.items() if m is not None}
    return ", ".join(f"{label}: {value}" for label, value in told.items())


def _as_text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return urlencode(value)
    if isinstance(value, Curve):
        return str(value).replace(",", "")
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:"\n') else text
