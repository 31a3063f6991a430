"""Every joint means the same on the genuine LDM UNet and on diffusers' one: a control that changes
something there changes their outputs alike.

With a host of the Forge family on the path (`test_forge.py` starts this file so), its UNet takes LDM's place.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import cast

import nets
import numpy as np
import pytest
import torch
from controls import Linear, on_call
from torch import Tensor, nn

from controlstack.errors import ControlError
from controlstack.families import reference
from controlstack.hosts import unet_diffusers, unet_ldm
from controlstack.joints import (
    Attention,
    Block,
    Call,
    Control,
    Prediction,
    Residuals,
    Role,
    Row,
    RowKind,
    Services,
    Site,
    joints,
    noise_levels,
)
from controlstack.layout import Base
from controlstack.schedule import RegionMask, Schedule
from controlstack.unit import ControlMode

UNETS = {
    "backend": ("backend.nn.unet", "IntegratedUNet2DConditionModel"),
    "ldm_patched": ("ldm_patched.ldm.modules.diffusionmodules.openaimodel", "UNetModel"),
    "ldm": ("ldm.modules.diffusionmodules.openaimodel", "UNetModel"),
}
KIND = next(filter(find_spec, UNETS), None)
pytestmark = pytest.mark.skipif(
    KIND is None, reason="stable-diffusion-sdkit (the genuine ldm package) is absent"
)
SHAPE = dict(
    in_channels=9,
    out_channels=4,
    model_channels=32,
    num_res_blocks=2,
    channel_mult=[1, 2, 4, 4],
    num_heads=8,
    use_spatial_transformer=True,
    context_dim=24,
)
LEVELS = {
    "ldm": dict(image_size=32, attention_resolutions=[4, 2, 1], legacy=False),
    "ldm_patched": dict(image_size=32),
    "backend": {},
}
"""How the hosts' variants of the class write down where they attend: Forge's counts transformers."""
COUNTED = dict(
    transformer_depth=[1] * 6 + [0] * 2,
    transformer_depth_middle=1,
    transformer_depth_output=[1] * 9 + [0] * 3,
)

SIZE, PARTS = 16, ("input", "middle", "output")


def noise(like: Tensor, *name: object) -> Tensor:
    """Seeded by the name of a place, the same whoever asks."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr(name).encode()))
    return torch.randn(like.shape, generator=generator)


def site_name(site: Site) -> tuple[object, ...]:
    return tuple(site.block), site.nth, site.cross


class Projecting(Control):
    def projected(self, site: Site, role: Role, h: Tensor, call: Call) -> Tensor | None:
        return 0.3 * noise(h, site_name(site), role)


class Attending(Control):
    """Adds what the queries see in other tokens."""

    def attended(self, site: Site, attention: Attention, call: Call) -> Tensor | None:
        tokens = attention.k[:, :5]
        return attention.over(noise(tokens, site_name(site), "k"), 3 * noise(tokens, site_name(site), "v"))


class Styling(Control):
    """Has prompt attention look at further tokens, made keys and values by the layer itself."""

    def attended(self, site: Site, attention: Attention, call: Call) -> Tensor | None:
        if not site.cross:
            return None
        k, v = attention.project(3 * noise(call.context[:, :3], "style"))
        k, v = torch.cat([attention.k, k], dim=1), torch.cat([attention.v, v], dim=1)
        return attention.over(k, v) - attention.out


class Entering(Control):
    def entering(self, block: Block, h: Tensor, call: Call) -> Tensor | None:
        return 0.3 * noise(h, tuple(block), "in") if block != ("input", 0) else None


class Leaving(Control):
    def leaving(self, block: Block, h: Tensor, call: Call) -> Tensor | None:
        return 0.3 * noise(h, tuple(block), "out")


class Timing(Control):
    def timestep(self, embedding: Tensor, call: Call) -> Tensor | None:
        return noise(embedding, "time")


class Silencing(Control):
    def prompt(self, call: Call) -> Tensor | None:
        return -call.context


class Dreaming(Control):
    def denoised(self, x0: Tensor, call: Call) -> Tensor | None:
        return noise(x0, "x0")


class Painting(Control):
    """Feeds the extra channels of an inpaint checkpoint."""

    def channels(self, call: Call) -> Tensor | None:
        return noise(call.x[:, :1].expand(-1, 5, -1, -1), "channels")


class Adding(Control):
    def residuals(self, call: Call) -> Residuals | None:
        return Residuals(encoder={2: noise(call.x[:, :1].expand(-1, 32, -1, -1), "feature")})


class Referring(Control):
    """Attends to what the same layer sees in a picture of its own, as reference_only does."""

    def __init__(self) -> None:
        self.bank: dict[Site, Attention] = {}

    def shadow(self, call: Call) -> Tensor | None:
        return noise(call.x, "reference")

    def overheard(self, site: Site, attention: Attention) -> None:
        self.bank[site] = attention

    def attended(self, site: Site, attention: Attention, call: Call) -> Tensor | None:
        if site.cross:
            return None
        seen = self.bank[site]
        k, v = torch.cat([attention.k, seen.k], dim=1), torch.cat([attention.v, 4 * seen.v], dim=1)
        return attention.over(k, v) - attention.out


class Taking(reference.Pass):
    """reference_adain+attn itself, with half the style fidelity."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        latents = 2 * torch.randn(1, 4, SIZE, SIZE, generator=generator)
        where = reference.thresholds(Base(32, 24, None, 12))
        live = cast(Services, Linear())
        super().__init__([reference.Seen(latents, live, 3, 1.0, 0.5, attends=True, thresholds=where)])


KINDS = (
    Projecting,
    Attending,
    Entering,
    Leaving,
    Styling,
    Silencing,
    Timing,
    Dreaming,
    Painting,
    Adding,
    Referring,
    Taking,
)


@pytest.fixture(scope="module")
def unets() -> tuple[nn.Module, nn.Module]:
    """One UNet twice: SD1's blocks, with the nine channels of an inpaint checkpoint."""
    theirs = nets.unet(nets.SD1 | {"in_channels": 9, "cross_attention_dim": 24})
    assert KIND is not None
    module, name = UNETS[KIND]
    where = LEVELS[KIND] if KIND == "ldm" else LEVELS[KIND] | COUNTED
    ldm = getattr(import_module(module), name)(**SHAPE, **where)
    ldm.load_state_dict(nets.in_ldm(theirs.state_dict()))
    return ldm.eval(), theirs


def inputs(rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 9, SIZE, SIZE, generator=generator)
    return x, torch.full((rows,), 321), torch.randn(rows, 7, 24, generator=generator)


def ldm_output(unet: nn.Module, *controls: Control, **options: object) -> Tensor:
    used = frozenset[str]().union(*map(joints, controls))
    with unet_ldm.attach(unet, on_call(*controls, **options), used), torch.no_grad():  # type: ignore[arg-type]
        output = unet(*inputs())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())
    assert isinstance(output, Tensor)
    return output


def diffusers_output(unet: nn.Module, *controls: Control, **options: object) -> Tensor:
    used = frozenset[str]().union(*map(joints, controls))
    x, t, context = inputs()
    with unet_diffusers.attach(unet, on_call(*controls, **options), used), torch.no_grad():  # type: ignore[arg-type]
        output = unet(x, t, context, return_dict=False)[0]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())
    assert isinstance(output, Tensor)
    return output


@pytest.mark.parametrize("kind", KINDS)
def test_a_joint_means_the_same_on_both_unets(
    unets: tuple[nn.Module, nn.Module], kind: type[Control]
) -> None:
    ldm, theirs = unets
    plain = ldm_output(ldm)
    changed = ldm_output(ldm, kind())
    assert (changed - plain).abs().mean() > 0.02 * plain.abs().mean(), "the control must be felt"
    torch.testing.assert_close(diffusers_output(theirs, kind()), changed, atol=2e-5, rtol=1e-4)
    assert torch.equal(ldm_output(ldm), plain)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Painting])
def test_rows_on_which_a_control_does_not_act_are_the_plain_ones(
    unets: tuple[nn.Module, nn.Module], kind: type[Control]
) -> None:
    ldm, _ = unets
    rows = (Row(0, RowKind.COND), Row(0, RowKind.UNCOND))
    more_important = Schedule(mode=ControlMode.CONTROL)
    plain, changed = ldm_output(ldm), ldm_output(ldm, kind(), schedule=more_important, rows=rows)
    assert (changed - plain)[0].abs().mean() > 0.01 * plain.abs().mean()
    torch.testing.assert_close(changed[1], plain[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [Attending, Leaving, Dreaming, Projecting, Referring])
def test_order_of_units_does_not_matter_and_weight_zero_is_plain(
    unets: tuple[nn.Module, nn.Module], kind: type[Control]
) -> None:
    ldm, _ = unets
    one, two = ldm_output(ldm, kind(), Entering()), ldm_output(ldm, Entering(), kind())
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    assert torch.equal(ldm_output(ldm, kind(), schedule=Schedule(weight=0)), ldm_output(ldm))


@pytest.mark.parametrize("kind", [Attending, Leaving])
def test_a_region_mask_keeps_a_change_in_its_half(
    unets: tuple[nn.Module, nn.Module], kind: type[Control]
) -> None:
    """Asked at the joint itself: further layers spread what happens in one half."""
    left = torch.zeros(1, 1, SIZE, SIZE)
    left[..., : SIZE // 2] = 1
    x, t, context = inputs()
    shadow = None
    answer = on_call(kind(), schedule=Schedule(mask=RegionMask(left)))(x[:, :4], t, context, None, shadow)  # type: ignore[arg-type]
    assert answer is not None
    feature = torch.randn(2, 8, SIZE, SIZE)
    if kind is Leaving:
        change = answer.leaving(Block("input", 1), feature)
    else:
        tokens = feature.flatten(2).transpose(1, 2)
        change = answer.attended(
            Site(Block("input", 1), 0, cross=True), Attention(*[tokens] * 4, 2, lambda _: (tokens, tokens))
        )
        assert change is not None
        change = change.transpose(1, 2).reshape(2, 8, SIZE, SIZE)
    assert change is not None
    assert change[..., : SIZE // 2 - 1].abs().mean() > 0.05
    assert not change[..., SIZE // 2 + 1 :].any()


def test_a_region_mask_on_cut_up_tokens_is_an_error() -> None:
    mask = RegionMask(torch.ones(1, 1, 8, 8))
    assert mask.over_tokens(torch.zeros(1, 5 * 6, 4), (17, 23)).shape == (1, 30, 1)  # 17x23 -> 9x12 -> 5x6
    with pytest.raises(ControlError, match="region mask"):
        mask.over_tokens(torch.zeros(1, 7, 4), (16, 16))


def test_predictions_are_diffusers_conversions() -> None:
    """diffusers' DDIMScheduler: predicted x0, and `add_noise`, at whole timesteps."""
    from diffusers import DDIMScheduler

    x, output = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for kind in ("epsilon", "v_prediction", "sample"):
        scheduler = DDIMScheduler(
            beta_schedule="scaled_linear", prediction_type=kind, clip_sample=False, set_alpha_to_one=False
        )
        scheduler.set_timesteps(1000)
        for t in (1, 500, 998):
            at = Prediction.at(torch.tensor([float(t)]), noise_levels(scheduler.alphas_cumprod), kind)
            expected = scheduler.step(output, t, x).pred_original_sample
            torch.testing.assert_close(at.denoised(x, output), expected, atol=2e-4, rtol=1e-4)
            wanted = expected + torch.ones_like(x)
            changed = at.denoised(x, output + at.output_change(torch.ones_like(x)))
            torch.testing.assert_close(changed, wanted, atol=5e-4, rtol=1e-4)
            noised = scheduler.add_noise(x, output, torch.tensor([t]))
            torch.testing.assert_close(at.noised(x, output), noised, atol=1e-5, rtol=1e-4)


def test_between_timesteps_predictions_follow_k_diffusion() -> None:
    """k-diffusion's DiscreteSchedule.t_to_sigma: linear in the logarithm of sigma."""
    alphas = torch.linspace(0.99, 0.01, 10)
    sigmas = ((1 - alphas) / alphas).sqrt()
    at = Prediction.at(torch.tensor([2.25]), noise_levels(alphas), "epsilon")
    expected = np.exp(0.75 * np.log(sigmas[2]) + 0.25 * np.log(sigmas[3]))
    assert float(at.noise / at.signal) == pytest.approx(float(expected), rel=1e-5)


def test_a_call_is_cut_to_rows_with_its_shadow() -> None:
    x, t, context = inputs()
    call = Call(x, t, context, None, (Row(0), Row(1)))
    assert call.take([0, 1]) is call
    assert replace(call).take([1]).rows == (Row(1),)
