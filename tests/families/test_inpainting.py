"""Inpaint checkpoints that a unit feeds, against diffusers' `StableDiffusionInpaintPipeline`; the noise that
LaMa's picture leaves a trace in; and latents that are kept, whatever the UNet predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import nets
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionInpaintPipeline
from torch import Tensor, nn

from controlstack import family, plan, preprocess
from controlstack.catalog import Catalog
from controlstack.errors import ControlError
from controlstack.evaluation import Acting, Evaluation
from controlstack.family import Start
from controlstack.hosts import unet_diffusers
from controlstack.image import Array, hint
from controlstack.joints import Call, Control, Prediction, Row, RowKind, Services, Shadow
from controlstack.schedule import Schedule
from controlstack.session import Session
from controlstack.sources import Job
from controlstack.unit import parse
from controlstack.weights import Loaded

SIZE = 64
ROWS = (Row(0, RowKind.UNCOND), Row(0, RowKind.COND))
START = "start from the picture"
MASK = np.zeros((SIZE, SIZE), np.uint8)
MASK[16:40, 8:32] = 255  # whole latent cells, where nearest and largest are the same


def picture(seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def unet() -> Any:
    return nets.unet(nets.SD1 | {"in_channels": 9})


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(2)
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    widths = (8, 8, 8, 8)
    return AutoencoderKL(
        block_out_channels=widths, down_block_types=down, up_block_types=up, norm_num_groups=4
    ).eval()


def begin(unet: Any, vae: nn.Module, **fields: Any) -> Session:
    job = Job(width=SIZE, height=SIZE, base=unet_diffusers.base_of(unet))
    unit = parse({"module": "inpaint", "image": picture(), "mask": MASK, "enabled": True, **fields})
    session = Session(Loaded(1), preprocess.Cache(), [plan.resolve(0, unit, job, Catalog([Path()]))])
    session.prepare()
    session.begin(SIZE, SIZE, unet_diffusers.LiveUNet(unet, DDPMScheduler(), vae), hires=False)
    return session


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 9, SIZE // 8, SIZE // 8, generator=generator)
    return x, torch.full((2,), 500), torch.randn(2, 7, 768, generator=generator)


@torch.no_grad()
def output(unet: Any, session: Session | None = None) -> Tensor:
    def on_call(x: Tensor, t: Tensor, context: Tensor, y: Tensor | None, shadow: Shadow) -> Any:
        assert session
        return session.step(Call(x, t, context, y, ROWS, shadow=shadow))

    used = session.joints if session else ()
    with unet_diffusers.attach(unet, on_call if session else lambda *_: None, used):
        result: Tensor = unet(*inputs(), return_dict=False)[0]
    return result


def fed(unet: Any, vae: nn.Module) -> Tensor:
    """What the pipeline shows its UNet for this picture and mask, in the rows of both prompts."""
    parts: dict[str, Any] = dict(vae=vae, unet=unet, scheduler=DDPMScheduler())
    absent = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    unet.register_to_config(sample_size=SIZE // 8)
    pipe = StableDiffusionInpaintPipeline(**parts, **absent, requires_safety_checker=False)
    colours = pipe.image_processor.preprocess(picture()[None] / 255.0).float()
    mask = torch.from_numpy(MASK)[None, None] / 255
    masked, where = colours * (mask < 0.5), (torch.float32, torch.device("cpu"))
    shrunk, _ = pipe.prepare_mask_latents(mask, masked, 1, SIZE, SIZE, *where, torch.Generator(), True)
    mean = vae.encode(masked).latent_dist.mode()  # type: ignore[operator]  # the pipeline draws one
    return torch.cat([shrunk, (mean * pipe.vae.config.scaling_factor).expand(2, -1, -1, -1)], dim=1)


@pytest.mark.parametrize("module", ["inpaint", "inpaint_only"])
def test_an_inpaint_checkpoint_reads_what_diffusers_shows_it(unet: Any, vae: nn.Module, module: str) -> None:
    plain, session = output(unet), begin(unet, vae, module=module)
    x, t, context = inputs()
    with torch.no_grad():
        expected = unet(torch.cat([x[:, :4], fed(unet, vae)], dim=1), t, context, return_dict=False)[0]
    if module == "inpaint_only":  # keeps latents too
        session._controls = [one for one in session._controls if one[1].family.name == "inpaint checkpoint"]
    assert (expected - plain).abs().mean() > 0.02 * plain.abs().mean()
    torch.testing.assert_close(output(unet, session), expected, atol=1e-5, rtol=0)


def test_rows_that_a_unit_spares_and_steps_outside_its_window_see_the_jobs_own(
    unet: Any, vae: nn.Module
) -> None:
    plain, changed = output(unet), output(unet, begin(unet, vae))
    spared = output(unet, begin(unet, vae, control_mode="ControlNet is more important"))
    torch.testing.assert_close(spared[0], plain[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(spared[1], changed[1], atol=1e-5, rtol=0)
    for fields in ({"weight": 0}, {"guidance_start": 0.5}, {"mask": np.zeros_like(MASK)}):
        assert torch.equal(output(unet, begin(unet, vae, **fields)), plain)


def test_a_reference_is_seen_with_nothing_masked(unet: Any, vae: AutoencoderKL) -> None:
    """As sd-webui-controlnet shows it to an inpaint checkpoint: no mask, and its own latents behind it."""
    session, seen = begin(unet, vae, module="reference_only", mask=None), []
    hook = unet.conv_in.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    output(unet, session)
    hook.remove()
    shadow, own = seen
    pixels = torch.from_numpy(picture()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    assert not shadow[:, 4].any()
    torch.testing.assert_close(shadow[:, 5:], latents.expand(2, -1, -1, -1), atol=1e-5, rtol=0)
    assert torch.equal(own, inputs()[0])


def test_lama_sees_what_a_resize_puts_around_the_picture(unet: Any) -> None:
    job = Job(width=2 * SIZE, height=SIZE, base=unet_diffusers.base_of(unet))
    fields = {"module": "inpaint_only+lama", "image": picture(), "mask": MASK, "enabled": True}
    resized = plan.resolve(0, parse({**fields, "resize_mode": "Resize and Fill"}), job, Catalog([Path()]))
    (seen,), (ask,) = resized.source.pictures, resized.asks
    assert seen.rgb.shape == (SIZE, 2 * SIZE, 3)
    assert ask.mask is not None
    assert (ask.mask[:, : SIZE // 2] == 255).all()
    assert np.array_equal(ask.mask[:, SIZE // 2 : SIZE // 2 + SIZE], MASK)
    assert [match.family.name for match in resized.matches] == [
        *("keep unmasked", "inpaint checkpoint", "start from the picture"),
    ]


def test_other_checkpoints_have_nothing_to_be_fed(vae: nn.Module) -> None:
    for extra in ({}, {"in_channels": 5}, {"in_channels": 8}):
        with pytest.raises(ControlError, match="has no model"):
            begin(nets.unet(nets.SD1 | extra), vae)


class Host:
    """A VAE that means over 8 x 8 px, and a UNet of DDPM's noise that predicts what it is told to."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def encode(self, picture: Tensor) -> Tensor:
        cells = nn.functional.avg_pool2d(picture, 8) * 2 - 1
        return torch.cat([cells, cells[:, :1]], dim=1)

    def prediction(self, t: Tensor) -> Prediction:
        alphas = DDPMScheduler().alphas_cumprod[t.long()].reshape(-1, 1, 1, 1)
        return Prediction(alphas.sqrt(), (1 - alphas).sqrt(), self.kind)


def control(name: str, live: Host | None = None, *, hires: bool = False) -> Control:
    found = family.called(name)
    assert found is not None
    match = found.beside(unet_diffusers.base_of(nets.unet(nets.SD1 | {"in_channels": 9})))
    assert match is not None
    seen, host = np.dstack([picture(), MASK]), cast(Services, live or Host("epsilon"))
    return found.begin(Start(nn.Identity(), match, hint(seen), seen, parse({"model": "a"}), host, hires))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "edm"])
@pytest.mark.parametrize("t", [20, 600])
def test_latents_are_kept_whatever_the_unet_predicts(kind: str, t: int) -> None:
    """x0 by DDPM's formulas, Salimans and Ho's for v, and Karras et al.'s table 1 for EDM with data of spread
    0.5, of a UNet call at the same level of noise."""
    generator, spread = torch.Generator().manual_seed(t), 0.5
    x, predicted = torch.randn(2, 2, 4, 8, 8, generator=generator)
    alpha = DDPMScheduler().alphas_cumprod[t]
    sigma = ((1 - alpha) / alpha).sqrt()
    whole = (sigma**2 + spread**2).sqrt()

    def x0(output: Tensor) -> Tensor:
        if kind == "edm":
            return spread**2 / whole**2 * (x * whole) + sigma * spread / whole * output
        if kind == "v_prediction":
            return alpha.sqrt() * x - (1 - alpha).sqrt() * output
        return output if kind == "sample" else (x - (1 - alpha).sqrt() * output) / alpha.sqrt()

    live = Host(kind)
    if kind == "edm":
        live.prediction = lambda _: Prediction(1 / whole, sigma / whole, kind)  # type: ignore[method-assign]
    running = control("keep unmasked", live)
    call = Call(x, torch.full((2,), float(t)), torch.zeros(2, 1, 8), None, ROWS)
    strength = Schedule().at(call)
    assert strength is not None
    after = x0(Evaluation(call, [Acting(running, strength, call)], cast(Services, live)).output(predicted))
    reached = nn.functional.max_pool2d(torch.from_numpy(MASK)[None, None] / 255, 10, 8, 1).bool()
    own = live.encode(torch.from_numpy(picture()).permute(2, 0, 1)[None] / 255)
    expected = torch.where(reached, x0(predicted), own)
    assert (x0(predicted) - own).abs().mean() > 0.2
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)


def test_noise_has_the_trace_that_the_last_timestep_leaves() -> None:
    """DDPM's q_sample at 999, diffusers' `add_noise`."""
    noise = torch.randn(3, 4, 8, 8)
    x0 = Host("").encode(torch.from_numpy(picture()).permute(2, 0, 1)[None] / 255).expand(3, -1, -1, -1)
    expected = DDPMScheduler().add_noise(x0, noise, torch.full((3,), 999))
    change = control(START).start(noise)
    assert change is not None
    assert (expected - noise).abs().max() > 1e-3
    torch.testing.assert_close(noise + change, expected, atol=1e-5, rtol=0)
    assert control(START, hires=True).start(noise) is None


def test_noise_has_the_trace_where_and_when_the_unit_acts() -> None:
    """In the half of the region mask, in the first of two pictures, and never from the middle of the pass."""
    half = np.zeros((SIZE, SIZE), np.uint8)
    half[:, : SIZE // 2] = 255
    noise = torch.randn(2, 4, 8, 8)
    whole = started(noise) - noise
    assert whole.abs().min() > 0
    assert started(noise, guidance_start=0.5) is noise
    assert started(noise, weight_curve="0@0, 1@0.5") is noise
    left = started(noise, effective_region_mask=half, batch_weights=[1, 0]) - noise
    torch.testing.assert_close(left[0, :, :, :3], whole[0, :, :, :3], atol=1e-6, rtol=0)
    assert not left[1].any()
    assert not left[0, :, :, 5:].any()


def started(noise: Tensor, **fields: Any) -> Tensor:
    """The noise that a pass starts from, with a unit that starts from its picture and nothing else."""
    beside = preprocess.Preprocessor("start", lambda image, _: image, "start", companions=(START,))
    base = unet_diffusers.base_of(nets.unet(nets.SD1))
    with pytest.MonkeyPatch.context() as shelf:
        shelf.setitem(preprocess._shelf, "start", beside)
        unit = parse({"module": "start", "image": picture(), "enabled": True, **fields})
        plans = [plan.resolve(0, unit, Job(width=SIZE, height=SIZE, base=base), Catalog([Path()]))]
    session = Session(Loaded(1), preprocess.Cache(), plans)
    session.prepare()
    session.begin(SIZE, SIZE, cast(Any, Host("epsilon")), hires=False)
    return session.start(noise)
