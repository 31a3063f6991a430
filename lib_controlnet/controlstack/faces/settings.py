"""The settings, under the incumbent's keys and with its defaults, so that `config.json` keeps its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlstack.hosts import options
from controlstack.hosts.webui import CONTINUE_WITHOUT_CONTROL, LATE_WINDOW, MAX_UNITS, WebUI
from controlstack.log import log


@dataclass(frozen=True)
class Setting:
    """One setting.

    bounds: a slider's minimum, maximum and step, for numbers
    works: one that does nothing here is kept for programs that set it, and not shown to people
    path: a folder, which programs cannot set
    """

    default: bool | int | str
    label: str
    bounds: Mapping[str, int] = field(default_factory=dict)
    works: bool = True
    path: bool = False


def _of_the_incumbent(default: bool | int) -> Setting:
    return Setting(default, "A setting of sd-webui-controlnet; it changes nothing here", works=False)


SETTINGS = {
    "control_net_models_path": Setting(
        "", "Another folder with control models, searched too (needs a restart)", path=True
    ),
    "control_net_modules_path": Setting(
        "", "A folder with the models of preprocessors, searched first (needs a restart)", path=True
    ),
    "control_net_unit_count": Setting(
        3,
        "Units on the page (programs may send more; needs a reload of the page)",
        dict(minimum=1, maximum=MAX_UNITS, step=1),
    ),
    "control_net_model_cache_size": Setting(
        2, "Control models kept in memory between jobs (needs a restart)", dict(minimum=1, maximum=10, step=1)
    ),
    "control_net_no_detectmap": Setting(False, "Do not add detected maps to the results"),
    "control_net_detectmap_autosaving": Setting(False, "Save detected maps as files"),
    "control_net_detectedmap_dir": Setting(
        "detected_maps", "Folder for them, below that of the pictures", path=True
    ),
    "control_net_allow_script_control": Setting(False, "Other scripts may set units (p.control_net_*)"),
    "controlnet_increment_seed_during_batch": Setting(
        False, "In a batch of files, count the seed on from picture to picture"
    ),
    "control_net_sync_field_args": Setting(True, "Pasting a picture's parameters sets units"),
    "controlnet_control_type_dropdown": Setting(
        False, "Control types as a list to open, for narrow pages (needs a reload of the page)"
    ),
    CONTINUE_WITHOUT_CONTROL: Setting(
        False, "When a unit fails, paint without control instead of stopping with a sentence"
    ),
    LATE_WINDOW: Setting(
        False,
        "Begin and end units late by a step or two, as sd-webui-controlnet does, to repeat its pictures in "
        "A1111",
    ),
    **dict.fromkeys(
        (
            "controlnet_show_batch_images_in_ui",
            "controlnet_disable_openpose_edit",
            "controlnet_disable_photopea_edit",
            "controlnet_ignore_noninpaint_mask",
            "controlnet_clip_detector_on_cpu",
        ),
        _of_the_incumbent(False),
    ),
    "controlnet_photopea_warning": _of_the_incumbent(True),
    "control_net_inpaint_blur_sigma": _of_the_incumbent(7),
}


def register() -> None:
    """Declare all of them. The host calls it when it makes its settings."""
    import gradio as gr

    for key, setting in SETTINGS.items():
        component = gr.Slider if setting.bounds else None
        args = setting.bounds if setting.works else {"visible": False}
        options.declare(key, setting.default, setting.label, component, args, restrict_api=setting.path)


def set_log_level(host: WebUI) -> None:
    """As the command line says, else one line for each unit."""
    log.setLevel(host.flag("controlnet_loglevel") or "INFO")
