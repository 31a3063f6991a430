"""A pass of the host against diffusers' own pipelines, called directly with the same inputs: equal."""

from __future__ import annotations

from functools import cache

import diffusers
import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from controlstack.hosts.embedded import latents, pipeline, random_nets, samplers
from controlstack.hosts.embedded.checkpoint import TRAINED, Checkpoint
from controlstack.hosts.embedded.prompts import encode

SEEDS = (5, 6)
KINDS = {
    "sd1": (
        random_nets.sd1,
        StableDiffusionPipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
    ),
    "sdxl": (
        random_nets.sdxl,
        StableDiffusionXLPipeline,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLInpaintPipeline,
    ),
}


@cache
def base(kind: str) -> Checkpoint:
    return Checkpoint(kind, KINDS[kind][0](), dict(TRAINED)).to(torch.device("cpu"))


def theirs(kind: str, which: int, scheduler: str) -> diffusers.DiffusionPipeline:
    """diffusers' pipeline as its documentation builds one."""
    extra = (
        {"add_watermarker": False} if kind == "sdxl" else {"safety_checker": None, "feature_extractor": None}
    )
    schedule = getattr(diffusers, scheduler).from_config(TRAINED)
    pipe = KINDS[kind][which](**base(kind).components, scheduler=schedule, **extra)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def noise(drawn_from: list[torch.Generator]) -> Tensor:
    return torch.cat([torch.randn(1, 4, 8, 12, generator=g) for g in drawn_from])


def start(kind: str, guidance: float = 7.0, **settings: object) -> pipeline.Pass:
    drawing = generators()
    prompts = encode(base(kind), ["a cat", "two dogs"], ["blurry", ""], cfg=guidance > 1)
    return pipeline.Pass(prompts, noise(drawing), drawing, steps=4, guidance=guidance, **settings)


def ours(kind: str, given: pipeline.Pass, sampler: str = "Euler") -> Tensor:
    with torch.no_grad():
        return pipeline.run(pipeline.build(base(kind), sampler, given), given, lambda pipe, step: None)


def asked(given: pipeline.Pass) -> dict[str, object]:
    return {
        "num_inference_steps": 4,
        "guidance_scale": given.guidance,
        "output_type": "latent",
        **given.prompts.arguments(),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", [7.0, 1.0])
@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_txt2img(kind, guidance, sampler):
    given = start(kind, guidance)
    drawing = generators()
    expected = theirs(kind, 1, samplers.SAMPLERS[sampler][0])(
        **asked(given), latents=noise(drawing), generator=drawing, height=64, width=96
    ).images
    assert torch.equal(ours(kind, given, sampler), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["Euler a", "Heun", "DDIM"])
def test_img2img(kind, sampler):
    """diffusers draws the noise itself: the first draw from each generator, as the host does."""
    init = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(9))
    expected = theirs(kind, 2, samplers.SAMPLERS[sampler][0])(
        **asked(start(kind)), image=init, strength=0.6, generator=generators()
    ).images
    assert torch.equal(ours(kind, start(kind, init=init, strength=0.6), sampler), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_inpaint(kind):
    init = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(9))
    mask = torch.zeros(1, 1, 8, 12)
    mask[..., 2:5, 3:9] = 1
    expected = theirs(kind, 3, "EulerDiscreteScheduler")(
        **asked(start(kind)),
        image=init,
        mask_image=mask.repeat_interleave(8, -1).repeat_interleave(8, -2),
        masked_image_latents=init,
        strength=0.6,
        generator=generators(),
        height=64,
        width=96,
    ).images
    sampled = ours(kind, start(kind, init=init, strength=0.6, mask=mask))
    assert torch.equal(sampled, expected)
    kept = (1 - mask).bool().expand_as(init)
    assert torch.equal(sampled[kept], init[kept])
    assert not torch.equal(sampled[~kept], init[~kept])


@pytest.mark.parametrize("kind", KINDS)
def test_scripts_may_change_the_noise(kind):
    """The start noise that a hook edits in place is the noise that is used."""
    init = torch.zeros(2, 4, 8, 12)
    for settings in ({}, {"init": init}, {"init": init, "mask": torch.ones(1, 1, 8, 12)}):
        given, edited = start(kind, strength=0.6, **settings), start(kind, strength=0.6, **settings)
        edited.noise.mul_(-1)
        assert not torch.allclose(ours(kind, given, "DDIM"), ours(kind, edited, "DDIM"))


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_encoded_as_diffusers_does(kind):
    """Also SDXL's rule: zeros when nobody gives a negative prompt."""
    pipe = theirs(kind, 1, "DDIMScheduler")
    for negatives in (["blurry", ""], ["", ""]):
        found = encode(base(kind), ["a cat", "two dogs"], negatives, cfg=True)
        expected = pipe.encode_prompt(
            prompt=["a cat", "two dogs"],
            device=torch.device("cpu"),
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            negative_prompt=None if kind == "sdxl" and not any(negatives) else negatives,
        )
        parts = [
            part for part in (found.cond, found.uncond, found.pooled, found.pooled_uncond) if part is not None
        ]
        assert len(parts) == len(expected)
        assert all(map(torch.equal, parts, expected))
    assert (kind == "sdxl") == (not found.uncond.any())


@pytest.mark.parametrize(
    ("steps", "strength", "exact", "evaluations"),
    [
        # A1111's sample_img2img: t_enc = int(min(strength, 0.999) * steps), then t_enc + 1 evaluations.
        (20, 0.75, False, 16),
        (20, 0.0, False, 1),
        (20, 1.0, False, 20),
        (1, 0.5, False, 1),
        (50, 0.3, False, 16),
        # Its hires pass: exactly the steps asked for.
        (20, 0.7, True, 20),
        (8, 0.001, True, 8),
        (8, 1.0, True, 8),
        (15, 0.0, True, 15),
    ],
)
def test_steps_of_img2img(steps, strength, exact, evaluations):
    schedule, share = pipeline.img2img_steps(steps, strength, exact=exact)
    pipe = theirs("sd1", 2, "DDIMScheduler")
    pipe.scheduler.set_timesteps(schedule)
    assert pipe.get_timesteps(schedule, share, "cpu")[1] == evaluations
    if exact and 0.01 < strength < 1:
        assert schedule == int(steps / strength)


def test_every_evaluation_is_watched_and_may_be_changed():
    unet, seen = base("sd1").unet, []

    def on_evaluation(called):
        seen.append((len(called["sample"]), float(called["timestep"])))
        called["encoder_hidden_states"] = torch.zeros_like(called["encoder_hidden_states"])

    given = start("sd1")
    plain = ours("sd1", start("sd1"), "Heun")
    with pipeline.watched(unet, on_evaluation):
        pipe = pipeline.build(base("sd1"), "Heun", given)
        with torch.no_grad():
            changed = pipeline.run(pipe, given, lambda pipe, step: None)
    assert len(seen) == pipe.num_timesteps == 7  # Heun evaluates twice a step, but once at the last
    assert {rows for rows, _ in seen} == {4}
    assert not torch.allclose(plain, changed)
    assert not unet._forward_pre_hooks


def test_a_checkpoint_for_inpainting_runs_all_passes():
    """Nine input channels: with no picture of the job's own it sees grey, all of it masked."""
    parts = random_nets.sd1()
    parts["unet"] = diffusers.UNet2DConditionModel.from_config(parts["unet"].config, in_channels=9)
    model = Checkpoint("inpaint", parts, dict(TRAINED)).to(torch.device("cpu"))
    init = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(9))
    seen = []
    for settings in ({}, {"init": init, "strength": 0.6}):
        given = pipeline.for_checkpoint(model, start("sd1", **settings))
        with pipeline.watched(model.unet, lambda called: seen.append(called["sample"])), torch.no_grad():
            pipeline.run(pipeline.build(model, "Euler", given), given, lambda pipe, step: None)
    grey = latents.encode(model.vae, torch.full((1, 3, 64, 96), 0.5))[0]
    assert len(seen) == 4 + 2
    for sample in seen:
        assert sample.shape == (4, 9, 8, 12)
        assert (sample[:, 4] == 1).all()
        torch.testing.assert_close(sample[0, 5:], grey)


def test_decoding_and_encoding_follow_the_vae():
    """Against diffusers' VaeImageProcessor and the VAE itself; alone or in a batch is the same."""
    vae = base("sd1").vae
    sampled = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        processor = diffusers.image_processor.VaeImageProcessor()
        expected = processor.denormalize(vae.decode(sampled / vae.config.scaling_factor).sample)
        torch.testing.assert_close(latents.decode(vae, sampled), expected)
        assert torch.equal(latents.decode(vae, sampled)[1:], latents.decode(vae, sampled[1:]))
        pictures = torch.rand(2, 3, 64, 96)
        mean = vae.encode(processor.normalize(pictures)).latent_dist.mean
        torch.testing.assert_close(latents.encode(vae, pictures), mean * vae.config.scaling_factor)
