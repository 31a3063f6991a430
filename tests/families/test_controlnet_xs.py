"""ControlNet-XS, against diffusers' `UNetControlNetXSModel`, UNet and adapter in one; and under the authors'
names against their code: `controlnet_xs.json` has what that makes of weights and inputs by a formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nets
import pytest
import torch
from controls import on_call
from diffusers import ControlNetXSAdapter, UNetControlNetXSModel
from diffusers.models.resnet import ResnetBlock2D
from stage import inputs
from tiny import controlnet_xs
from torch import Tensor, nn
from waves import state, wave

from controlstack import family
from controlstack.errors import ControlError
from controlstack.families.controlnet_xs import Reading
from controlstack.family import Start
from controlstack.hosts import unet_diffusers
from controlstack.joints import joints
from controlstack.unit import ControlNetUnit
from controlstack.weights import Header, read_header

SIZE = 64
PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "controlnet_xs.json").read_text("utf-8"))
UNETS: dict[str, nets.Config] = {
    "sd1": nets.SD1 | dict(block_out_channels=(32, 64, 64, 64)),
    "sd2": nets.SD2 | dict(block_out_channels=(32, 64, 64, 64), attention_head_dim=(1, 2, 2, 2)),
    "sdxl": nets.SDXL | dict(block_out_channels=(64, 128, 128), attention_head_dim=(1, 2, 2)),
}
"""As wide as the authors' classes allow; they count heads by channels: SD2's have 32 each here."""
SMALL = {"sd1": (64, 128, 128, 128), "sd2": (8, 16, 16, 16), "sdxl": (16, 32, 32)}
"""Widths of the encoders beside them."""


def loaded(path: Path, tensors: dict[str, Tensor], unet: nn.Module) -> tuple[family.Match, nn.Module]:
    nets.save(path, tensors)
    match = family.recognise(read_header(path))
    assert match.family.name == "ControlNet-XS"
    assert match.base.mismatch(unet_diffusers.base_of(unet)) is None
    return match, match.family.load(match, unet_diffusers.LiveUNet(unet))


@torch.no_grad()
def painted(unet: nn.Module, match: family.Match, network: nn.Module, hint: Tensor, *given: Any) -> Tensor:
    """hint: "1 3 H W"; given: x, t, context, added_cond_kwargs"""
    shown, services = (hint[0].permute(1, 2, 0) * 255).byte().numpy(), unet_diffusers.LiveUNet(unet)
    control = match.family.begin(Start(network, match, hint, shown, ControlNetUnit(), services))
    with unet_diffusers.attach(unet, on_call(control), joints(control)):
        return plain(unet, *given)


@torch.no_grad()
def plain(unet: nn.Module, x: Tensor, t: Tensor, context: Tensor, added: Any) -> Tensor:
    output = unet(x, t, context, added_cond_kwargs=added, return_dict=False)[0]
    assert isinstance(output, Tensor)
    return output


@pytest.mark.parametrize("learns", [False, True], ids=["UNet's time", "own time"])
@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_it_does_what_diffusers_does(tmp_path: Path, layout: str, learns: bool) -> None:
    unet, adapter = nets.unet(nets.LAYOUTS[layout]), controlnet_xs.adapter(layout, learns=learns)
    match, network = loaded(tmp_path / "xs.safetensors", dict(adapter.state_dict()), unet)
    hint, other = torch.rand(2, 1, 3, SIZE, SIZE)
    x, t, context, added = inputs(layout)
    with torch.no_grad():
        both = UNetControlNetXSModel.from_unet(unet, adapter).eval()
        for name, module in both.named_modules():
            if isinstance(module, ResnetBlock2D) and "ctrl" not in name:
                # It leaves some of the UNet's at another ε than the UNet has.
                module.norm1.eps = module.norm2.eps = unet.config.norm_eps
        theirs = both(x, t, context, hint, added_cond_kwargs=added, return_dict=False)[0]
    ours = painted(unet, match, network, hint, x, t, context, added)
    unlike = painted(unet, match, network, other, x, t, context, added)
    assert (ours - plain(unet, x, t, context, added)).abs().mean() > 0.05 * ours.abs().mean()
    assert (ours - unlike).abs().mean() > 0.002 * ours.abs().mean()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def unet_by_formula(layout: str) -> nn.Module:
    unet = nets.unet(UNETS[layout])
    unet.load_state_dict(state({name: tuple(t.shape) for name, t in unet.state_dict().items()}))
    return unet


def authors(layout: str) -> dict[str, Tensor]:
    """A small encoder under the authors' names, without numbers; that for SD2 learns a time, as theirs."""
    config, widths = UNETS[layout], SMALL[layout]
    with torch.device("meta"):
        net = ControlNetXSAdapter(
            learn_time_embedding=layout == "sd2",
            num_attention_heads=1,
            block_out_channels=widths,
            base_block_out_channels=config["block_out_channels"],
            cross_attention_dim=config["cross_attention_dim"],
            down_block_types=config["down_block_types"],
            transformer_layers_per_block=config.get("transformer_layers_per_block", 1),
            use_linear_projection=config.get("use_linear_projection", False),
        )
    return controlnet_xs.in_authors(net.state_dict())


def net_by_formula(layout: str) -> dict[str, Tensor]:
    made = state({name: tuple(tensor.shape) for name, tensor in authors(layout).items()})
    return made | {"scale_list": torch.ones_like(made["scale_list"])}


def inputs_by_formula(layout: str) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor] | None]:
    """x, t, context, the hint and what SDXL reads in addition, for two rows of 8 cells."""
    config = UNETS[layout]
    added = None
    if layout == "sdxl":
        added = {
            "text_embeds": 5 * wave(2, 24, seed=4),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2),
        }
    x, context = 16 * wave(2, 4, 8, 8, seed=1), 60 * wave(2, 7, config["cross_attention_dim"], seed=2)
    return x, torch.tensor([700.0, 300.0]), context, 0.5 + 40 * wave(1, 3, SIZE, SIZE, seed=3), added


@pytest.mark.parametrize("layout", UNETS)
def test_it_does_what_the_authors_code_does(tmp_path: Path, layout: str) -> None:
    unet, tensors = unet_by_formula(layout), net_by_formula(layout)
    x, t, context, hint, added = inputs_by_formula(layout)
    match, network = loaded(tmp_path / "xs.safetensors", tensors, unet)
    ours = painted(unet, match, network, hint, x, t, context, added)
    expected = torch.tensor(PUBLISHED[layout]).reshape(x.shape)
    assert (expected - plain(unet, x, t, context, added)).abs().mean() > 0.05 * expected.abs().mean()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("prefix", "beside"),
    [
        ("control_model.", "model.diffusion_model.out.2.weight"),
        ("model.", "model.diffusion_model.out.2.weight"),
    ],
    ids=["ldm", "sgm"],
)
def test_checkpoints_of_a_training_hold_it_too(prefix: str, beside: str) -> None:
    """As `TwoStreamControlLDM` and `ControlledDiffusionEngine` keep it, with what SDXL's does not read."""
    shapes = {name: tuple(tensor.shape) for name, tensor in authors("sd2").items()}
    alone = family.recognise(Header(Path("xs.ckpt"), shapes))
    behind = {prefix + name: shape for name, shape in shapes.items()}
    behind |= {beside: (4, 32, 3, 3), f"{prefix}control_model.label_emb.0.0.weight": (128, 24)}
    match = family.recognise(Header(Path("last.ckpt"), behind))
    assert (match.family, match.base) == (alone.family, alone.base)
    assert isinstance(alone.detail, Reading)
    assert isinstance(match.detail, Reading)
    assert match.detail.names == {ours: prefix + theirs for ours, theirs in alone.detail.names.items()}
    assert match.detail.layout == alone.detail.layout
    assert not match.detail.unknown


def test_other_variants_of_the_authors_code_are_refused(tmp_path: Path) -> None:
    """Those that guide the decoder too, and those that the UNet's encoder does not hear."""
    tensors = {name: torch.empty_like(tensor, device="cpu") for name, tensor in authors("sdxl").items()}
    host = nets.Host()
    full = tensors | {"control_model.output_blocks.0.0.in_layers.0.weight": torch.zeros(64)}
    match = family.recognise(read_header(nets.save(tmp_path / "full.safetensors", full)))
    with pytest.raises(ControlError, match=r"unknown control_model\.output_blocks\.0"):
        match.family.load(match, host)
    deaf = {name: tensor for name, tensor in tensors.items() if "enc_zero_convs_out" not in name}
    with pytest.raises(ControlError, match="does not hear it"):
        family.recognise(read_header(nets.save(tmp_path / "deaf.safetensors", deaf)))
