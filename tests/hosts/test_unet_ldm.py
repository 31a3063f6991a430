"""Module hooks on the genuine LDM UNet against the forward that cldm.py of lllyasviel/ControlNet writes
out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controls import Fixed, on_call
from torch import Tensor, nn

from controlstack.evaluation import Evaluation
from controlstack.hosts import unet_ldm
from controlstack.joints import Call, Control, Residuals

openaimodel = pytest.importorskip(
    "ldm.modules.diffusionmodules.openaimodel",
    reason="stable-diffusion-sdkit (the genuine ldm package) is absent",
)

T2I_BLOCKS = (2, 5, 8, 11)


def ldm_unet(in_channels: int = 4) -> nn.Module:
    """The block layout of SD1.5 (12 encoder blocks) at width 32, with an output layer that is not zero."""
    torch.manual_seed(0)
    unet = openaimodel.UNetModel(
        image_size=32,
        in_channels=in_channels,
        out_channels=4,
        model_channels=32,
        attention_resolutions=[4, 2, 1],
        num_res_blocks=2,
        channel_mult=[1, 2, 4, 4],
        num_heads=8,
        use_spatial_transformer=True,
        context_dim=24,
        use_checkpoint=True,
        legacy=False,
    )
    for parameter in unet.parameters():
        if not parameter.any():  # zero_module: proj_out of attention, the last convolution
            nn.init.normal_(parameter, std=0.05)
    return unet.eval()


def inputs(height: int, width: int, channels: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, channels, height, width, generator=generator)
    return x, torch.tensor([999.0, 0.5]), torch.randn(2, 7, 24, generator=generator)


def residuals_like(unet: nn.Module, x: Tensor, t: Tensor, context: Tensor) -> Residuals:
    """Random residuals of the very shapes that the encoder and the middle block put out."""
    shapes: list[torch.Size] = []
    record = [
        b.register_forward_hook(lambda *a: shapes.append(a[2].shape))
        for b in (*unet.input_blocks, unet.middle_block)
    ]
    unet(x, t, context)
    for hook in record:
        hook.remove()
    generator = torch.Generator().manual_seed(2)
    *skips, middle = (torch.randn(shape, generator=generator) for shape in shapes)
    return Residuals(
        tuple(skips), middle, {i: torch.randn(shapes[i], generator=generator) for i in T2I_BLOCKS}
    )


def rewritten_forward(unet: nn.Module, x: Tensor, t: Tensor, context: Tensor, control: Residuals) -> Tensor:
    """ControlledUnetModel.forward of cldm.py, with T2I-Adapter's features after encoder blocks 2, 5, 8 and
    11."""
    features, skips = control.encoder or {}, list(control.skips)
    hs = []
    emb = unet.time_embed(openaimodel.timestep_embedding(t, unet.model_channels, repeat_only=False))
    h = x
    for i, module in enumerate(unet.input_blocks):
        h = module(h, emb, context)
        if i in features:
            h = h + features[i]
        hs.append(h)
    h = unet.middle_block(h, emb, context)
    if control.middle is not None:
        h = h + control.middle
    for module in unet.output_blocks:
        skip = hs.pop() + skips.pop() if skips else hs.pop()
        h = module(torch.cat([h, skip], dim=1), emb, context)
    return unet.out(h)


class Failing(Control):
    def residuals(self, call: Call) -> Residuals:
        raise ValueError("no")


@pytest.mark.parametrize("part", ["everything", "12 + 1", "encoder features"])
@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
@torch.no_grad()
def test_hooks_equal_the_rewritten_forward_exactly(part: str, size: tuple[int, int]) -> None:
    unet = ldm_unet()
    x, t, context = inputs(*size)
    everything = residuals_like(unet, x, t, context)
    assert len(everything.skips) == 12
    control = {
        "everything": everything,
        "12 + 1": Residuals(everything.skips, everything.middle),
        "encoder features": Residuals(encoder=everything.encoder),
    }[part]
    plain = unet(x, t, context)
    expected = rewritten_forward(unet, x, t, context, control)
    assert (expected - plain).abs().mean() > 0.02  # of an output whose mean magnitude is about 1

    seen: list[Tensor] = []

    class Seeing(Fixed):
        def residuals(self, call: Call) -> Residuals:
            seen.extend((call.x, call.t, call.context))
            return self.given

    with unet_ldm.attach(unet, on_call(Seeing(control)), {"residuals"}):
        by_position = unet(x, t, context)
        by_keyword = unet(x, timesteps=t, context=context)
    assert torch.equal(by_position, expected)
    assert torch.equal(by_keyword, expected)
    assert all(torch.equal(a, b) for a, b in zip(seen, [x, t, context] * 2, strict=True))
    assert torch.equal(unet(x, t, context), plain)


@torch.no_grad()
def test_nothing_to_add_is_the_plain_call_and_nothing_stays() -> None:
    unet = ldm_unet()
    x, t, context = inputs(16, 16)
    plain = unet(x, t, context)
    hooks = unet_ldm.attach(unet, lambda *_: None, vars(Control))
    assert torch.equal(unet(x, t, context), plain)
    hooks.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


@torch.no_grad()
def test_an_error_reaches_the_caller_and_leaves_nothing_for_the_next_call() -> None:
    unet = ldm_unet()
    x, t, context = inputs(16, 16)
    plain = unet(x, t, context)
    control = residuals_like(unet, x, t, context)
    answers = iter([on_call(Fixed(control)), on_call(Failing()), lambda *_: None])

    def answer(*call: Any) -> Evaluation | None:
        return next(answers)(*call)

    with unet_ldm.attach(unet, answer, {"residuals"}):
        assert not torch.equal(unet(x, t, context), plain)
        with pytest.raises(ValueError, match="no"):
            unet(x, t, context)
        assert torch.equal(unet(x, t, context), plain)


@torch.no_grad()
def test_an_inpaint_checkpoint_shows_only_its_latent() -> None:
    unet = ldm_unet(in_channels=9)
    x, t, context = inputs(16, 16, channels=9)
    seen: list[Tensor] = []
    with unet_ldm.attach(unet, lambda latent, *_: seen.append(latent), ()):
        unet(x, t, context)
    assert torch.equal(seen[0], x[:, :4])
