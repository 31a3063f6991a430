"""Names, labels, order, control types and sliders are those of sd-webui-controlnet 1.1.455."""

from __future__ import annotations

import logging
from dataclasses import astuple

import pytest

from controlstack import preprocess
from controlstack.preprocess import Preprocessor

# GET /controlnet/module_list, in its order.
_ORDER = """
none ip-adapter-auto tile_resample pidinet oneformer_ade20k pidinet_scribble revision_clipvision
reference_only recolor_luminance openpose_full normal_bae mlsd lineart_standard ip-adapter_clip_sd15
inpaint_only depth canny invert tile_colorfix+sharp tile_colorfix threshold clip_vision pidinet_sketch color
softedge_teed pidinet_safe hed_safe hed softedge_anyline shuffle segmentation oneformer_coco
anime_face_segment scribble_xdog scribble_hed revision_ignore_prompt reference_adain+attn reference_adain
recolor_intensity openpose_hand openpose_faceonly openpose_face openpose normal_map normal_dsine mobile_sam
mediapipe_face lineart lineart_coarse lineart_anime_denoise lineart_anime ip-adapter_pulid
ip-adapter_face_id_plus ip-adapter_face_id ip-adapter_clip_sdxl_plus_vith ip-adapter_clip_sdxl
instant_id_face_keypoints instant_id_face_embedding inpaint_only+lama inpaint facexlib dw_openpose_full
depth_zoe depth_leres++ depth_leres depth_hand_refiner depth_anything_v2 depth_anything densepose_parula
densepose blur_gaussian animal_openpose
"""
ORDER = _ORDER.split()

# GET /controlnet/control_types: the labels of each, after `none`.
CONTROL_TYPES = {
    "Canny": ["canny", "invert (from white bg & black line)"],
    "Depth": [
        *("depth_midas", "depth_zoe", "depth_leres++", "depth_leres", "depth_hand_refiner"),
        *("depth_anything_v2", "depth_anything"),
    ],
    "IP-Adapter": [
        *("ip-adapter-auto", "ip-adapter_clip_h", "ip-adapter_pulid", "ip-adapter_face_id_plus"),
        *("ip-adapter_face_id", "ip-adapter_clip_sdxl_plus_vith", "ip-adapter_clip_g"),
    ],
    "Inpaint": ["inpaint_only", "inpaint_only+lama", "inpaint_global_harmonious"],
    "Instant-ID": ["instant_id_face_keypoints", "instant_id_face_embedding"],
    "InstructP2P": ["none"],
    "Lineart": [
        *("lineart_standard (from white bg & black line)", "invert (from white bg & black line)"),
        *("lineart_realistic", "lineart_coarse", "lineart_anime_denoise", "lineart_anime"),
    ],
    "MLSD": ["mlsd", "invert (from white bg & black line)"],
    "NormalMap": ["normal_bae", "normal_midas", "normal_dsine"],
    "OpenPose": [
        *(
            "openpose_full",
            "openpose_hand",
            "openpose_faceonly",
            "openpose_face",
            "openpose",
            "dw_openpose_full",
        ),
        *(
            "densepose_parula (black bg & blue torso)",
            "densepose (pruple bg & purple torso)",
            "animal_openpose",
        ),
    ],
    "Recolor": ["recolor_luminance", "recolor_intensity"],
    "Reference": ["reference_only", "reference_adain+attn", "reference_adain"],
    "Revision": ["revision_clipvision", "revision_ignore_prompt"],
    "Scribble": ["scribble_pidinet", "invert (from white bg & black line)", "scribble_xdog", "scribble_hed"],
    "Segmentation": ["seg_ofade20k", "seg_ufade20k", "seg_ofcoco", "seg_anime_face", "mobile_sam"],
    "Shuffle": ["shuffle"],
    "SoftEdge": [
        *("softedge_pidinet", "softedge_teed", "softedge_pidisafe", "softedge_hedsafe", "softedge_hed"),
        "softedge_anyline",
    ],
    "SparseCtrl": ["scribble_pidinet", "scribble_xdog", "scribble_hed"],
    "T2I-Adapter": ["t2ia_style_clipvision", "t2ia_sketch_pidi", "t2ia_color_grid"],
    "Tile": ["tile_resample", "tile_colorfix+sharp", "tile_colorfix", "blur_gaussian"],
}

# module_detail: label, minimum, maximum, step, value of the sliders after the resolution.
FIDELITY = ("Style Fidelity (only for Balanced mode)", 0, 1, 0.01, 0.5)
LERES = [("Remove Near %", 0, 100, 0.1, 0), ("Remove Background %", 0, 100, 0.1, 0)]
SLIDERS = {
    "tile_resample": [("Down Sampling Rate", 1, 8, 0.01, 1)],
    "revision_clipvision": [("Noise Augmentation", 0, 1, 0.01, 0)],
    "revision_ignore_prompt": [("Noise Augmentation", 0, 1, 0.01, 0)],
    "reference_only": [FIDELITY],
    "reference_adain+attn": [FIDELITY],
    "reference_adain": [FIDELITY],
    "recolor_luminance": [("Gamma Correction", 0.1, 2, 0.001, 1)],
    "recolor_intensity": [("Gamma Correction", 0.1, 2, 0.001, 1)],
    "mlsd": [("MLSD Value Threshold", 0.01, 2, 0.01, 0.1), ("MLSD Distance Threshold", 0.01, 20, 0.01, 0.1)],
    "canny": [("Low Threshold", 1, 255, 1, 100), ("High Threshold", 1, 255, 1, 200)],
    "tile_colorfix+sharp": [("Variation", 3, 32, 1, 8), ("Sharpness", 0, 2, 0.01, 1)],
    "tile_colorfix": [("Variation", 3, 32, 1, 8)],
    "threshold": [("Binarization Threshold", 0, 255, 0.01, 127)],
    "softedge_teed": [("Safe Steps", 0, 10, 1, 2)],
    "softedge_anyline": [("Safe Steps", 0, 10, 1, 2)],
    "scribble_xdog": [("XDoG Threshold", 1, 64, 0.01, 32)],
    "normal_map": [("Normal Background Threshold", 0, 1, 0.01, 0.4)],
    "normal_dsine": [("Fov", 0, 360, 0.1, 60), ("Iterations", 1, 20, 1, 5)],
    "mediapipe_face": [("Max Faces", 1, 10, 1, 1), ("Min Face Confidence", 0.01, 1, 0.01, 0.5)],
    "depth_leres++": LERES,
    "depth_leres": LERES,
    "blur_gaussian": [("Sigma", 0.01, 64, 0.01, 9)],
}

SHELF = preprocess.everything()
known = pytest.mark.parametrize("preprocessor", [p for p in SHELF if p.name in ORDER], ids=lambda p: p.name)


def test_the_order_is_kept():
    ours = [p.name for p in SHELF]
    assert [name for name in ours if name in ORDER] == [name for name in ORDER if name in ours]


def test_the_order_within_a_control_type_is_kept():
    for control_type, labels in CONTROL_TYPES.items():
        ours = [p.label for p in SHELF if control_type in p.control_types and p.name in ORDER]
        assert ours == [label for label in labels if label in ours]


@known
def test_control_types(preprocessor: Preprocessor):
    offered_by = {
        control_type for control_type, labels in CONTROL_TYPES.items() if preprocessor.label in labels
    }
    assert set(preprocessor.control_types) == offered_by


@known
def test_sliders(preprocessor: Preprocessor):
    ours = [astuple(slider) for slider in (preprocessor.a, preprocessor.b) if slider]
    assert ours == SLIDERS.get(preprocessor.name, [])


@known
def test_resolution(preprocessor: Preprocessor):
    """Where it does something it is the common slider; the original also shows it where it does nothing."""
    if preprocessor.resolution:
        value = 1280 if preprocessor.name == "softedge_anyline" else 512
        assert astuple(preprocessor.resolution) == ("Resolution", 64, 2048, 8, value)


def test_a_number_out_of_range_is_told_in_the_originals_words(caplog: pytest.LogCaptureFixture):
    """Its tests of HTTP routes look for these lines; -1 asks for the default and needs none."""
    caplog.set_level(logging.INFO, logger="ControlStack")
    canny = next(p for p in SHELF if p.name == "canny")
    ask = canny.ask(-100, -100, -100)
    assert (ask.resolution, ask.a, ask.b) == (512, 100, 200)
    for line, said in zip(
        caplog.messages,
        (
            "[canny.processor_res] Invalid value(-100), using default value 512.",
            "[canny.threshold_a] Invalid value(-100.0), using default value 100.",
            "[canny.threshold_b] Invalid value(-100.0), using default value 200.",
        ),
        strict=True,
    ):
        assert line.startswith(said)
    caplog.clear()
    canny.ask()
    canny.ask(float("inf"), float("nan"))
    assert [line.partition(",")[0] for line in caplog.messages] == [
        "[canny.processor_res] Invalid value(inf)",
        "[canny.threshold_a] Invalid value(nan)",
    ]
