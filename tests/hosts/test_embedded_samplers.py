"""Samplers and noise schedules by name, single steps, zero SNR, and noise between seeds."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from controlstack.hosts.embedded import noise, pipeline, random_nets, samplers
from controlstack.hosts.embedded.checkpoint import TRAINED, Checkpoint
from controlstack.hosts.embedded.prompts import encode

CPU = torch.device("cpu")
EXTRA = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Euler a", ("Euler a", None)),
        ("euler A", ("Euler a", None)),
        ("k_euler_ancestral", ("Euler a", None)),
        ("DPM++ 2M Karras", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M SGM Uniform", ("DPM++ 2M", "SGM Uniform")),
        ("k_dpmpp_2m exponential", ("DPM++ 2M", "Exponential")),
        (None, ("Euler", None)),
        ("DPM fast", (None, None)),
        ("Karras", (None, None)),
    ],
)
def test_names(name, found):
    assert samplers.split(name) == found


def sigmas(sampler: str, schedule: str, steps: int = 6) -> torch.Tensor:
    made = samplers.scheduler(sampler, TRAINED, schedule)
    made.set_timesteps(steps)
    return made.sigmas[:steps]


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M"])
def test_karras_and_exponential(sampler):
    """Karras et al. 2022, equation 5 with rho 7; exponential is a straight line of logarithms."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)  # as SD was trained
    most, least = (np.sqrt((1 - alphas) / alphas))[[-1, 0]]
    share = np.linspace(0, 1, 6)
    karras = (most ** (1 / 7) + share * (least ** (1 / 7) - most ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigmas(sampler, "Karras"), karras, rtol=1e-4)
    if samplers.lacks(sampler, "Exponential"):
        assert diffusers.__version__.startswith("0.31.")
        return
    np.testing.assert_allclose(sigmas(sampler, "Exponential"), most * (least / most) ** share, rtol=1e-4)


def test_automatic_is_what_a1111_means():
    """Its DPM++ 2M takes Karras by itself, the others do not."""
    assert torch.equal(sigmas("DPM++ 2M", "Automatic"), sigmas("DPM++ 2M", "Karras"))
    assert torch.equal(sigmas("Euler", "Automatic"), sigmas("Euler", "Uniform"))


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
@pytest.mark.parametrize("schedule", samplers.SCHEDULES)
def test_every_pair_works_or_says_that_it_does_not(sampler, schedule):
    made = samplers.scheduler(sampler, TRAINED, schedule)
    made.set_timesteps(4)
    times = made.timesteps.double()
    assert (times[:-1] >= times[1:]).all()
    assert times[0] > 700
    wants = {
        "Karras": "use_karras_sigmas",
        "Exponential": "use_exponential_sigmas",
        "Beta": "use_beta_sigmas",
    }.get(schedule)
    has = wants is None or bool(made.config.get(wants))
    assert bool(samplers.lacks(sampler, schedule)) == (not has)


def test_what_else_a_sampler_lacks():
    assert samplers.lacks("Heun", "Uniform", zero_snr=True) == [
        "The embedded host has no zero terminal SNR for Heun; it was ignored."
    ]
    assert not samplers.lacks("Euler", "Uniform", zero_snr=True)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_single_step_starts_from_noise_alone(sampler):
    made = samplers.scheduler(sampler, TRAINED, steps=1)
    made.set_timesteps(1)
    assert made.timesteps[0] == 999


@pytest.mark.parametrize("guidance", [1.0, 0.0])
def test_turbo(guidance):
    """SDXL-Turbo's card: one step of Euler with trailing spacing, and no guidance."""
    model = Checkpoint("turbo", random_nets.sdxl(), dict(TRAINED)).to(CPU)
    prompts = encode(model, ["a cat"], [""], cfg=guidance > 1)
    drawing = generator()
    start = pipeline.Pass(prompts, torch.randn(1, 4, 8, 8, generator=drawing), [drawing], 1, guidance)
    rows = []
    with torch.no_grad(), pipeline.watched(model.unet, lambda called: rows.append(len(called["sample"]))):
        found = pipeline.run(pipeline.build(model, "Euler", start), start, lambda pipe, step: None)
    assert rows == [1]
    euler = diffusers.EulerDiscreteScheduler.from_config(TRAINED, timestep_spacing="trailing")
    theirs = StableDiffusionXLPipeline(**model.components, scheduler=euler, add_watermarker=False)
    expected = theirs(
        "a cat",
        num_inference_steps=1,
        guidance_scale=guidance,
        latents=torch.randn(1, 4, 8, 8, generator=generator()),
        output_type="latent",
        height=64,
        width=64,
    ).images
    assert torch.equal(found, expected)


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DDIM", "DPM++ 2M", "UniPC"])
@pytest.mark.parametrize("by", ["checkpoint", "setting"])
def test_v_prediction_with_zero_snr(sampler, by):
    """As diffusers' documentation says: rescaled betas, trailing spacing; the first step is noise alone."""
    trained = {**TRAINED, "prediction_type": "v_prediction", "rescale_betas_zero_snr": by == "checkpoint"}
    model = Checkpoint("v", random_nets.sd2(), trained).to(CPU)
    prompts = encode(model, ["a cat"], [""], cfg=True)

    def start(drawing):
        latents = torch.randn(1, 4, 8, 8, generator=drawing)
        return pipeline.Pass(prompts, latents, [drawing], 3, 7.0, zero_snr=by == "setting")

    given = start(generator())
    pipe = pipeline.build(model, sampler, given)
    with torch.no_grad():
        found = pipeline.run(pipe, given, lambda pipe, step: None)
    assert pipe.scheduler.alphas_cumprod[-1] < 1e-6
    assert pipe.scheduler.timesteps[0] == 999
    told = {**trained, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = getattr(diffusers, samplers.SAMPLERS[sampler].kind).from_config(told)
    theirs = StableDiffusionPipeline(**model.components, scheduler=scheduler, **EXTRA)
    asked = start(generator())
    expected = theirs(
        **prompts.arguments(),
        num_inference_steps=3,
        guidance_scale=7.0,
        latents=asked.noise,
        generator=list(asked.generators),
        output_type="latent",
    ).images
    assert torch.isfinite(found).all()
    assert torch.equal(found, expected)


def test_eta_of_ddim():
    """0 draws nothing on the way, 1 does; both as diffusers."""
    model = Checkpoint("eta", random_nets.sd1(), dict(TRAINED)).to(CPU)
    prompts = encode(model, ["a cat"], [""], cfg=False)
    pictures = []
    for eta in (0.0, 1.0):
        drawing = generator()
        start = pipeline.Pass(prompts, torch.randn(1, 4, 8, 8, generator=drawing), [drawing], 3, 1.0, eta=eta)
        with torch.no_grad():
            pictures.append(
                pipeline.run(pipeline.build(model, "DDIM", start), start, lambda pipe, step: None)
            )
        scheduler = diffusers.DDIMScheduler.from_config(TRAINED)
        theirs = StableDiffusionPipeline(**model.components, scheduler=scheduler, **EXTRA)
        drawing = generator()
        expected = theirs(
            prompt_embeds=prompts.cond,
            num_inference_steps=3,
            guidance_scale=1.0,
            eta=eta,
            latents=torch.randn(1, 4, 8, 8, generator=drawing),
            generator=[drawing],
            output_type="latent",
        ).images
        assert torch.equal(pictures[-1], expected)
    assert not torch.allclose(*pictures)


def test_eta_of_euler_a():
    """0 is Euler, 1 diffusers' own; between them noise is split as by k-diffusion's `get_ancestral_step`."""
    sample, output = (torch.randn(1, 4, 8, 8, generator=generator(seed)) for seed in (1, 2))

    def stepped(kind, **how):
        made = kind.from_config(TRAINED)
        made.set_timesteps(5)
        scaled = sample * made.init_noise_sigma
        made.scale_model_input(scaled, made.timesteps[0])
        return made.step(output, made.timesteps[0], scaled, return_dict=False, **how)[0], made.sigmas, scaled

    ours = samplers.SAMPLERS["Euler a"].scheduler
    torch.testing.assert_close(stepped(ours, eta=0.0)[0], stepped(diffusers.EulerDiscreteScheduler)[0])
    theirs = stepped(diffusers.EulerAncestralDiscreteScheduler, generator=generator())[0]
    assert torch.equal(stepped(ours, eta=1.0, generator=generator())[0], theirs)
    found, sigmas, scaled = stepped(ours, eta=0.6, generator=generator())
    now, then = sigmas[0], sigmas[1]
    up = 0.6 * (then**2 * (now**2 - then**2) / now**2) ** 0.5
    down = (then**2 - up**2) ** 0.5
    drawn = torch.randn(1, 4, 8, 8, generator=generator())
    torch.testing.assert_close(found, scaled + output * (down - now) + drawn * up)


def test_eta_of_euler_a_in_a_pass():
    """None is its usual 1, and 0 is Euler."""
    model = Checkpoint("eta", random_nets.sd1(), dict(TRAINED)).to(CPU)
    prompts = encode(model, ["a cat"], [""], cfg=False)

    def sampled(sampler, eta):
        drawing = generator()
        start = pipeline.Pass(prompts, torch.randn(1, 4, 8, 8, generator=drawing), [drawing], 3, 1.0, eta=eta)
        with torch.no_grad():
            return pipeline.run(pipeline.build(model, sampler, start), start, lambda pipe, step: None)

    whole, half = sampled("Euler a", None), sampled("Euler a", 0.5)
    assert torch.equal(whole, sampled("Euler a", 1.0))
    assert not torch.allclose(whole, half, atol=1e-2)
    torch.testing.assert_close(sampled("Euler a", 0.0), sampled("Euler", None), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_noise_between_two_seeds(share):
    """On the circle through both: the angle to each end is its share of the angle between them."""
    low, high = (torch.randn(4, 12, 8, generator=generator(seed)) for seed in (1, 2))
    between = noise.slerp(share, low, high)

    def angle(a, b):
        cosine = (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)
        return cosine.double().clamp(-1, 1).acos()

    # unit vectors, so that only directions count
    unit = [t / t.norm(dim=1, keepdim=True) for t in (low, high)]
    middle = noise.slerp(share, *unit)
    torch.testing.assert_close(angle(unit[0], middle), share * angle(*unit), atol=2e-3, rtol=0)
    torch.testing.assert_close(middle.norm(dim=1), torch.ones(4, 8), atol=1e-5, rtol=0)
    assert between.std() == pytest.approx(1, abs=0.15)
    if share in (0.0, 1.0):
        torch.testing.assert_close(between, high if share else low)


def test_noise_between_equal_seeds():
    same = torch.randn(4, 12, 8, generator=generator())
    torch.testing.assert_close(noise.slerp(0.5, same, same.clone()), same)
