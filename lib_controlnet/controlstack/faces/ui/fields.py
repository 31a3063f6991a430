"""What the panel asks of each unit: one row for every component whose value a unit is made of.

The script's arguments carry these values in this order, unit by unit (`values`).
"""

from __future__ import annotations

from dataclasses import dataclass

from controlstack import control_types
from controlstack.preprocess import RESOLUTION
from controlstack.unit import (
    Combination,
    ControlMode,
    ControlNetUnionControlType,
    HiResFixOption,
    PuLIDMode,
    ResizeMode,
    WeightType,
)

Span = tuple[float, float, float]
"""A slider's minimum, maximum and step."""


@dataclass(frozen=True)
class Field:
    """One component.

    kind: what `compat` makes of it
    suffix: of its element id, behind the unit's
    span: of sliders; choices: of radios and dropdowns
    visible: at the start
    classes: CSS classes
    """

    name: str
    kind: str
    label: str
    default: object
    suffix: str
    span: Span = (0.0, 1.0, 0.01)
    choices: tuple[str, ...] = ()
    visible: bool = True
    classes: tuple[str, ...] = ()
    hint: str = ""


def _labels(
    kind: type[Combination | ControlMode | HiResFixOption | PuLIDMode | ResizeMode],
) -> tuple[str, ...]:
    return tuple(member.value for member in kind)


def _checkbox(name: str, label: str, suffix: str, **more: object) -> Field:
    return Field(name, "checkbox", label, more.pop("default", False), suffix, **more)  # type: ignore[arg-type]


def _slider(name: str, label: str, suffix: str, span: Span, default: float, **more: object) -> Field:
    return Field(name, "slider", label, default, suffix, span, **more)  # type: ignore[arg-type]


def _text(name: str, label: str, suffix: str, **more: object) -> Field:
    return Field(name, "text", label, more.pop("default", ""), suffix, **more)  # type: ignore[arg-type]


HIDDEN = "cnet-hidden"
"""Kept on the page for JavaScript, and shown to nobody."""
LISTED = "listed"
"""What the textbox of layer weights holds counts."""
_WEIGHT: Span = (0.0, 2.0, 0.05)
_SHARE: Span = (0.0, 1.0, 0.01)
_MODES = _labels(ControlMode)

FIELDS = (
    Field("input_mode", "text", "Input mode", "simple", "_input_mode", classes=(HIDDEN, "cnet-input-mode")),
    Field("picture", "picture", "Image", None, "_input_image", classes=("cnet-image",)),
    Field(
        "mask",
        "mask",
        "Mask, white is repainted",
        None,
        "_inpaint_mask",
        visible=False,
        classes=("cnet-mask",),
    ),
    Field("gallery", "gallery", "Images", None, "_merge_gallery", classes=("cnet-multi-input",)),
    _text("batch_dir", "Input Directory", "_batch_image_dir", hint="A folder on the computer that paints"),
    Field("batch_files", "files", "Or upload the pictures of the batch", None, "_batch_upload"),
    _text("batch_mask_dir", "Mask Directory (optional)", "_batch_mask_dir"),
    _text("output_dir", "Output Directory (optional)", "_batch_output_dir"),
    _checkbox(
        "loopback",
        "[Batch Loopback] Automatically send generated images to this ControlNet unit",
        "_controlnet_automatically_send_generated_images_checkbox",
    ),
    Field(
        "preview",
        "preview",
        "Preprocessor Preview",
        None,
        "_generated_image",
        visible=False,
        classes=("cnet-image", "cnet-generated-image"),
    ),
    _checkbox(
        "preview_as_input",
        "Preview as Input",
        "_controlnet_preview_as_input_checkbox",
        visible=False,
        classes=("cnet-preview-as-input",),
    ),
    _checkbox("enabled", "Enable", "_controlnet_enable_checkbox", classes=("cnet-unit-enabled",)),
    _checkbox("low_vram", "Low VRAM", "_controlnet_low_vram_checkbox"),
    _checkbox("pixel_perfect", "Pixel Perfect", "_controlnet_pixel_perfect_checkbox"),
    _checkbox("allow_preview", "Allow Preview", "_controlnet_preprocessor_preview_checkbox"),
    _checkbox("region_on", "Effective Region Mask", "_controlnet_mask_upload_checkbox"),
    Field(
        "region",
        "picture",
        "Effective Region Mask",
        None,
        "_mask_image",
        visible=False,
        classes=("cnet-mask-upload",),
    ),
    _checkbox("independent", "Upload independent control image", "_controlnet_same_img2img_checkbox"),
    _checkbox(
        "crop",
        "Crop input image based on A1111 mask",
        "_controlnet_crop_input_checkbox",
        default=True,
        classes=("cnet-crop-input-image",),
    ),
    Field(
        "control_type",
        "radio",
        "Control Type",
        control_types.ALL,
        "_controlnet_type_filter_radio",
        choices=(control_types.ALL,),
        classes=("controlnet_control_type_filter_group",),
    ),
    Field(
        "module", "dropdown", "Preprocessor", "none", "_controlnet_preprocessor_dropdown", choices=("none",)
    ),
    Field(
        "model",
        "dropdown",
        "Model",
        control_types.NONE,
        "_controlnet_model_dropdown",
        choices=(control_types.NONE,),
    ),
    _slider("weight", "Control Weight", "_controlnet_control_weight_slider", _WEIGHT, 1.0),
    _slider("guidance_start", "Starting Control Step", "_controlnet_start_control_step_slider", _SHARE, 0.0),
    _slider("guidance_end", "Ending Control Step", "_controlnet_ending_control_step_slider", _SHARE, 1.0),
    _slider(
        "processor_res",
        "Resolution",
        "_controlnet_preprocessor_resolution_slider",
        (-1, RESOLUTION.maximum, RESOLUTION.step),
        -1,
        visible=False,
    ),
    _slider(
        "threshold_a", "Threshold A", "_controlnet_threshold_A_slider", (-1, 1024, 0.01), -1, visible=False
    ),
    _slider(
        "threshold_b", "Threshold B", "_controlnet_threshold_B_slider", (-1, 1024, 0.01), -1, visible=False
    ),
    Field(
        "control_mode", "radio", "Control Mode", _MODES[0], "_controlnet_control_mode_radio", choices=_MODES
    ),
    Field(
        "resize_mode",
        "radio",
        "Resize Mode",
        ResizeMode.INNER_FIT.value,
        "_controlnet_resize_mode_radio",
        choices=_labels(ResizeMode),
    ),
    Field(
        "hr_option",
        "radio",
        "Hires-Fix Option",
        HiResFixOption.BOTH.value,
        "_controlnet_hr_option_radio",
        choices=_labels(HiResFixOption),
    ),
    Field(
        "pulid_mode",
        "radio",
        "PuLID Mode",
        PuLIDMode.FIDELITY.value,
        "_controlnet_pulid_mode_radio",
        choices=_labels(PuLIDMode),
        visible=False,
    ),
    Field(
        "union_control_type",
        "dropdown",
        "Union Control Type",
        ControlNetUnionControlType.UNKNOWN.value,
        "_controlnet_union_control_type_dropdown",
        choices=tuple(kind.value for kind in ControlNetUnionControlType),
        visible=False,
    ),
    Field(
        "combination",
        "radio",
        "Several pictures count as",
        Combination.AVERAGE.value,
        "_combination",
        choices=_labels(Combination),
        visible=False,
    ),
    Field(
        "weight_type",
        "dropdown",
        "Weight Type",
        LISTED,
        "_controlnet_weight_type_dropdown",
        choices=(LISTED, *(kind.value for kind in WeightType)),
        visible=False,
    ),
    _slider(
        "composition_weight",
        "Composition Weight",
        "_controlnet_composition_weight_slider",
        (0.0, 2.0, 0.01),
        1.0,
        visible=False,
    ),
    _text(
        "advanced_weighting",
        "Weights of layers",
        "_advanced_weighting",
        visible=False,
        hint="1, 0.9, 0.8, ...",
    ),
    _text("weight_curve", "Weight curve", "_weight_curve", hint="0@0, 1@0.2, 1@0.6, 0@1 smooth"),
    _slider("negative_weight", "Weight for the negative prompt", "_negative_weight", _SHARE, 1.0),
    _text("batch_weights", "Weights of the pictures in a batch", "_batch_weights", hint="1, 0.8, 0.6"),
    _checkbox("hires_on", "Other values in the high-resolution pass", "_hires_enable"),
    _slider("hires_weight", "Control Weight (hires)", "_hires_weight", _WEIGHT, 1.0, visible=False),
    _slider("hires_start", "Starting Control Step (hires)", "_hires_start", _SHARE, 0.0, visible=False),
    _slider("hires_end", "Ending Control Step (hires)", "_hires_end", _SHARE, 1.0, visible=False),
    Field(
        "hires_mode",
        "radio",
        "Control Mode (hires)",
        _MODES[0],
        "_hires_control_mode",
        choices=_MODES,
        visible=False,
    ),
    _text(
        "hires_layers",
        "Weights of layers (hires)",
        "_hires_advanced_weighting",
        visible=False,
        hint="empty: the same",
    ),
    _slider(
        "hires_composition",
        "Composition Weight (hires)",
        "_hires_composition_weight",
        (0.0, 2.0, 0.01),
        1.0,
        visible=False,
    ),
    _text(
        "hires_curve", "Weight curve (hires)", "_hires_weight_curve", visible=False, hint="empty: the same"
    ),
    _slider(
        "hires_negative",
        "Weight for the negative prompt (hires)",
        "_hires_negative_weight",
        _SHARE,
        1.0,
        visible=False,
    ),
)
NAMES = tuple(field.name for field in FIELDS)
BY_NAME = {field.name: field for field in FIELDS}
PICTURES = frozenset({"picture", "mask", "gallery", "batch_files", "preview", "region"})
"""Fields whose values are large: events that need none of them do not carry them."""
PLAIN = tuple(name for name in NAMES if name not in PICTURES)
HIRES = tuple(name for name in NAMES if name.startswith("hires_") and name != "hires_on")
