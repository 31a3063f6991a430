"""ControlNet-XS, against diffusers' `UNetControlNetXSModel`: UNet and adapter in one."""

from __future__ import annotations

from pathlib import Path

import nets
import pytest
import torch
from controls import on_call
from diffusers import UNetControlNetXSModel
from diffusers.models.resnet import ResnetBlock2D
from stage import inputs
from tiny import controlnet_xs
from torch import Tensor

from controlstack import family
from controlstack.family import Start
from controlstack.hosts import unet_diffusers
from controlstack.joints import joints
from controlstack.unit import ControlNetUnit
from controlstack.weights import read_header

SIZE = 64


@pytest.mark.parametrize("learns", [False, True], ids=["UNet's time", "own time"])
@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_it_does_what_diffusers_does(tmp_path: Path, layout: str, learns: bool) -> None:
    unet, adapter = nets.unet(nets.LAYOUTS[layout]), controlnet_xs.adapter(layout, learns=learns)
    nets.save(tmp_path / "xs.safetensors", adapter.state_dict())
    match = family.recognise(read_header(tmp_path / "xs.safetensors"))
    assert match.family.name == "ControlNet-XS"
    assert match.base.mismatch(unet_diffusers.base_of(unet)) is None
    services = unet_diffusers.LiveUNet(unet)
    network = match.family.load(match, services)
    hint, other = torch.rand(2, 1, 3, SIZE, SIZE)
    x, t, context, added = inputs(layout)

    def painted(hint: Tensor | None) -> Tensor:
        if hint is None:
            return unet(x, t, context, added_cond_kwargs=added, return_dict=False)[0]
        shown = (hint[0].permute(1, 2, 0) * 255).byte().numpy()
        control = match.family.begin(Start(network, match, hint, shown, ControlNetUnit(), services))
        with unet_diffusers.attach(unet, on_call(control), joints(control)):
            return unet(x, t, context, added_cond_kwargs=added, return_dict=False)[0]

    with torch.no_grad():
        both = UNetControlNetXSModel.from_unet(unet, adapter).eval()
        for name, module in both.named_modules():
            if isinstance(module, ResnetBlock2D) and "ctrl" not in name:
                # It leaves some of the UNet's at another ε than the UNet has.
                module.norm1.eps = module.norm2.eps = unet.config.norm_eps
        theirs = both(x, t, context, hint, added_cond_kwargs=added, return_dict=False)[0]
        ours = painted(hint)
        assert (ours - painted(None)).abs().mean() > 0.05 * ours.abs().mean()
        assert (ours - painted(other)).abs().mean() > 0.002 * ours.abs().mean()
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
