"""What the shapes of a file tell of its net."""

from __future__ import annotations

from typing import Any

import nets
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import nn

from controlstack.errors import ControlError
from controlstack.layout import Base, EncoderLayout, controlnet_names, unet_names

SD1, SD2 = Base(320, 768, None, 12), Base(320, 1024, None, 12)
SDXL, SMALL = Base(320, 2048, 2816, 9), Base(320, None, 2816, 9)


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def on_meta(kind: type[nn.Module], config: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return kind(**config)


def test_bases_have_the_names_people_use() -> None:
    assert [base.name for base in (SD1, SD2, SDXL, SMALL)] == ["SD1.x", "SD2.x", "SDXL", "SDXL"]
    assert Base(32, 24, None, 12).name == "a base model of context 24"


@pytest.mark.parametrize("base", [SD1, SD2, SDXL, Base(32, 24, None, 12)])
def test_a_control_fits_its_own_base(base: Base) -> None:
    assert base.mismatch(base) is None


def test_a_control_without_attention_fits_any_context() -> None:
    assert SMALL.mismatch(SDXL) is None
    assert SMALL.mismatch(SD1) is not None


def test_a_mismatch_names_both_sides_in_words_and_numbers() -> None:
    assert SD2.mismatch(SD1) == (
        "It is made for SD2.x (width 320, context 1024, skips 12), "
        "but the checkpoint is SD1.x (width 320, context 768, skips 12)"
    )
    assert "SDXL (width 320, context 2048, vector 2816, skips 9)" in str(SD1.mismatch(SDXL))
    assert "width 32," in str(Base(32, 768, None, 12).mismatch(SD1))


@pytest.mark.parametrize("layout", nets.LAYOUTS)
def test_a_controlnets_layout_rebuilds_it(layout: str) -> None:
    net = nets.controlnet(nets.LAYOUTS[layout])
    read = EncoderLayout.read(shapes(net), {})
    assert shapes(on_meta(ControlNetModel, read.controlnet_config())) == shapes(net)
    assert read.base.blocks == len(net.controlnet_down_blocks)
    assert read.hint == (3, *nets.HINT)


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("layout", nets.LAYOUTS)
def test_a_unets_layout_rebuilds_it(layout: str, channels: int) -> None:
    """Nine input channels are those of an inpaint checkpoint."""
    net = nets.unet(nets.LAYOUTS[layout] | dict(in_channels=channels))
    read = EncoderLayout.read(shapes(net), {})
    rebuilt = on_meta(UNet2DConditionModel, read.unet_config())
    assert shapes(rebuilt) == shapes(net)
    assert [m.heads for m in rebuilt.modules() if hasattr(m, "heads")] == [
        m.heads for m in net.modules() if hasattr(m, "heads")
    ]
    assert read.hint == ()
    assert (read.in_channels, read.out_channels) == (channels, 4)


@pytest.mark.parametrize("layout", nets.LAYOUTS)
@pytest.mark.parametrize("prefix", ["", "control_model."])
def test_a_controlnets_ldm_names_are_understood(layout: str, prefix: str) -> None:
    ours = shapes(nets.controlnet(nets.LAYOUTS[layout]))
    named = nets.in_ldm({name: name for name in ours}, prefix)
    others = ["model.diffusion_model.input_blocks.0.0.weight", "betas"] if prefix else []
    assert controlnet_names([*named, *others], prefix) == {name: theirs for theirs, name in named.items()}


@pytest.mark.parametrize("layout", nets.LAYOUTS)
def test_a_unets_ldm_names_are_understood(layout: str) -> None:
    prefix = "model.diffusion_model."
    named = nets.in_ldm({name: name for name in shapes(nets.unet(nets.LAYOUTS[layout]))}, prefix)
    assert unet_names([*named, "first_stage_model.decoder.conv_in.weight"]) == {
        name: theirs for theirs, name in named.items()
    }


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        (nets.FULL_SD1, (8, 8, 8, 8)),
        (nets.FULL_SD2, (5, 10, 20, 20)),
        (nets.FULL_SDXL, (5, 10, 20)),
        (nets.SD1 | dict(cross_attention_dim=40), (8, 8, 8, 8)),
        (nets.SD1 | dict(cross_attention_dim=1024), (1, 1, 2, 2)),
        (nets.SD1 | dict(cross_attention_dim=40, use_linear_projection=True), (1, 1, 2, 2)),
        (nets.SD1 | dict(use_linear_projection=True), (8, 8, 8, 8)),
    ],
)
def test_heads_follow_the_base(config: nets.Config, heads: tuple[int, ...]) -> None:
    assert EncoderLayout.read(nets.full_size_shapes(config), {}).heads == heads


@pytest.mark.parametrize(("given", "heads"), [("4", (4, 4, 4, 4)), ("[1, 2, 4, 8]", (1, 2, 4, 8))])
def test_metadata_gives_the_heads(given: str, heads: tuple[int, ...]) -> None:
    assert (
        EncoderLayout.read(shapes(nets.controlnet(nets.SD1)), {"num_attention_heads": given}).heads == heads
    )


def test_metadata_gives_the_groups_and_the_width_else() -> None:
    read = shapes(nets.controlnet(nets.NARROW))
    assert EncoderLayout.read(read, {"norm_num_groups": "8"}).controlnet_config()["norm_num_groups"] == 8
    assert EncoderLayout.read(read, {}).controlnet_config()["norm_num_groups"] == 16  # 48 and 96 channels
    assert EncoderLayout.read(nets.full_size_shapes(nets.FULL_SD1), {}).groups == 32


@pytest.mark.parametrize(
    "metadata", [{"num_attention_heads": "many"}, {"num_attention_heads": "[8]"}, {"norm_num_groups": "7"}]
)
def test_metadata_that_makes_no_net_is_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(ControlError, match="unknown layout"):
        EncoderLayout.read(shapes(nets.controlnet(nets.SD1)), metadata)


@pytest.mark.parametrize("lost", ["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"])
def test_tensors_that_make_no_encoder_are_refused(lost: str) -> None:
    read = shapes(nets.controlnet(nets.SD1))
    del read[lost]
    with pytest.raises(ControlError, match="damaged or of an unknown layout"):
        EncoderLayout.read(read, {})
