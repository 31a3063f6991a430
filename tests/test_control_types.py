"""Control types as sd-webui-controlnet 1.1.455 offers them."""

from __future__ import annotations

import pytest

from controlstack import control_types, preprocess
from controlstack.preprocess import Preprocessor

_NAMES = """
All Canny Depth IP-Adapter Inpaint Instant-ID InstructP2P Lineart MLSD NormalMap OpenPose Recolor Reference
Revision Scribble Segmentation Shuffle SoftEdge SparseCtrl T2I-Adapter Tile
"""
NAMES = _NAMES.split()

# Names of published models, and the control types that list them there.
MODELS = {
    "control_v11p_sd15_canny [d14c016b]": {"Canny"},
    "control_sd15_depth_anything [48a4bc3a]": {"Depth"},
    "control_v11f1p_sd15_depth [cfd03158]": {"Depth"},
    "ip-adapter-plus_sd15 [32cd8f7f]": {"IP-Adapter"},
    "control_v11p_sd15_inpaint [ebff9138]": {"Inpaint"},
    "control_instant_id_sdxl [c5c25a50]": {"Instant-ID"},
    "control_v11e_sd15_ip2p [c4bb465c]": {"InstructP2P"},
    "control_v11p_sd15s2_lineart_anime [3825e83e]": {"Lineart"},
    "control_v11p_sd15_mlsd [aca30ff0]": {"MLSD"},
    "control_v11p_sd15_normalbae [316696f1]": {"NormalMap"},
    "control_v11p_sd15_openpose [cab727d4]": {"OpenPose"},
    "controlnet_densepose [1a2b3c4d]": {"OpenPose"},
    "ioclab_sd15_recolor [6641f3c6]": {"Recolor"},
    "control_v11p_sd15_scribble [d4ba51ff]": {"Scribble"},
    "t2iadapter_sketch_sd15v2 [e5d2f1a0]": {"Scribble", "T2I-Adapter"},
    "control_v11p_sd15_seg [e1f51eb9]": {"Segmentation"},
    "control_v11e_sd15_shuffle [526bfdae]": {"Shuffle"},
    "control_v11p_sd15_softedge [a8575a2a]": {"SoftEdge"},
    "v3_sd15_sparsectrl_rgb [87f6ff4f]": {"SparseCtrl"},
    "t2i-adapter_xl_canny [ff8b24b1]": {"Canny", "T2I-Adapter"},
    "control_v11f1e_sd15_tile [a371b31b]": {"Tile"},
    "kohya_controllllite_xl_blur_anime [7f2d4b6c]": {"Tile"},
    "controlnet-UNION-sdxl-1.0 [f5a2d3b4]": {
        *("Canny", "Depth", "Inpaint", "Lineart", "MLSD", "NormalMap", "OpenPose", "Scribble"),
        *("Segmentation", "SoftEdge", "Tile"),
    },
    "qrcode_monster [11111111]": set(),
}


def test_there_are_these_in_this_order():
    assert [one.name for one in control_types.everything([])] == NAMES


def test_models_are_found_by_their_names():
    ours = {one.name: one.models for one in control_types.everything(list(MODELS))}
    for name in NAMES[1:]:
        assert ours[name] == ("None", *(model for model, types in MODELS.items() if name in types))


def test_all_offers_everything_and_suggests_nothing():
    every = control_types.everything(list(MODELS))[0]
    assert every.preprocessors == tuple(preprocess.everything())
    assert every.models == ("None", *MODELS)
    assert (every.default_option.name, every.default_model) == ("none", "None")


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("Canny", ["none", "canny", "invert (from white bg & black line)"]),
        ("InstructP2P", ["none"]),
        ("Reference", ["none"]),
        ("Inpaint", ["none", "inpaint_only", "inpaint_global_harmonious"]),
        ("Recolor", ["none", "recolor_luminance", "recolor_intensity"]),
        ("Tile", ["none", "tile_resample", "tile_colorfix+sharp", "tile_colorfix", "blur_gaussian"]),
    ],
)
def test_preprocessors_and_the_first_of_them(name: str, labels: list[str]):
    """Those that need no network; a control type is there even while it has none."""
    known = {"none", "canny", "invert", "inpaint_only", "inpaint", "recolor_luminance", "recolor_intensity"}
    known |= {"tile_resample", "tile_colorfix+sharp", "tile_colorfix", "blur_gaussian"}
    ours = next(one for one in control_types.everything([]) if one.name == name)
    assert [p.label for p in ours.preprocessors if p.name in known] == labels
    assert ours.default_option is ours.preprocessors[min(1, len(ours.preprocessors) - 1)]
    assert (ours.default_option.name == "none") == (len(ours.preprocessors) == 1)


@pytest.mark.parametrize(
    ("models", "default"),
    [
        ([], "None"),
        (["a_canny [00000000]", "b_canny [00000000]"], "a_canny [00000000]"),
        (["a_canny [00000000]", "control_v11p_sd15_canny [00000000]"], "control_v11p_sd15_canny [00000000]"),
        (["a_canny [00000000]", "b_canny [11111111]"], "a_canny [00000000]"),
        (["control_v11p_sd15_depth [00000000]"], "None"),
    ],
)
def test_the_model_to_start_with(models: list[str], default: str):
    canny = control_types.everything(models)[1]
    assert canny.name == "Canny"
    assert canny.default_model == default


def test_a_preprocessor_can_bring_a_control_type_of_its_own(monkeypatch: pytest.MonkeyPatch):
    preprocess.everything()
    new = Preprocessor(name="new", run=lambda image, _: image, label="new", control_types=("Matting",))
    monkeypatch.setitem(preprocess._shelf, "new", new)
    matting = next(
        one
        for one in control_types.everything(["sdxl_Matting [00000000]", "matters_not [00000000]"])
        if one.name == "Matting"
    )
    assert [p.name for p in matting.preprocessors] == ["none", "new"]
    assert matting.models == ("None", "sdxl_Matting [00000000]")
    assert (matting.default_option, matting.default_model) == (new, "sdxl_Matting [00000000]")
