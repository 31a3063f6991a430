"""The incumbent's settings. Its keys and defaults are listed here as its settings page has them."""

from __future__ import annotations

from controlstack.faces.settings import CONTINUE_WITHOUT_CONTROL, LATE_WINDOW, SETTINGS

THEIRS = {
    "control_net_detectedmap_dir": "detected_maps",
    "control_net_models_path": "",
    "control_net_modules_path": "",
    "control_net_unit_count": 3,
    "control_net_model_cache_size": 2,
    "control_net_inpaint_blur_sigma": 7,
    "control_net_no_detectmap": False,
    "control_net_detectmap_autosaving": False,
    "control_net_allow_script_control": False,
    "control_net_sync_field_args": True,
    "controlnet_show_batch_images_in_ui": False,
    "controlnet_increment_seed_during_batch": False,
    "controlnet_disable_openpose_edit": False,
    "controlnet_disable_photopea_edit": False,
    "controlnet_photopea_warning": True,
    "controlnet_ignore_noninpaint_mask": False,
    "controlnet_clip_detector_on_cpu": False,
    "controlnet_control_type_dropdown": False,
}


def test_keys_and_defaults_are_the_incumbents_and_two_of_our_own() -> None:
    assert {key: setting.default for key, setting in SETTINGS.items()} == {
        **THEIRS,
        CONTINUE_WITHOUT_CONTROL: False,
        LATE_WINDOW: False,
    }


def test_programs_cannot_choose_folders() -> None:
    paths = {key for key, setting in SETTINGS.items() if setting.path}
    assert paths == {"control_net_detectedmap_dir", "control_net_models_path", "control_net_modules_path"}
