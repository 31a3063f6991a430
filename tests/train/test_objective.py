"""What is learned equals what diffusers' pipelines and schedulers would make of the same base."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.training_utils import compute_snr
from training import QUICK, Shapes, base

from controlstack.hosts.embedded.checkpoint import TRAINED
from controlstack.train import encoder_copy
from controlstack.train.objective import Objective, min_snr_weight
from controlstack.train.samples import Samples, collate
from controlstack.train.text import Captions

CAPTIONS = ["a (very) red disc", "", "a square", "a square"]
OFF = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_captions_are_read_as_diffusers_pipelines_do(kind):
    model = base(kind)
    scheduler = DDPMScheduler.from_config(model.schedule)
    if kind == "sdxl":
        pipe = StableDiffusionXLPipeline(**model.components, scheduler=scheduler, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(**model.components, scheduler=scheduler, **OFF)
    found = pipe.encode_prompt(
        CAPTIONS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    ours = Captions(model)(CAPTIONS)
    torch.testing.assert_close(ours.context, found[0], rtol=0, atol=1e-6)
    if kind == "sdxl":
        torch.testing.assert_close(ours.pooled, found[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights(prediction):
    """Source: diffusers' compute_snr with the formula of its training scripts (Hang et al. 2023)."""
    schedule = DDPMScheduler.from_config(TRAINED)
    timesteps = torch.tensor([0, 100, 500, 999])
    snr, is_v = compute_snr(schedule, timesteps), prediction == "v_prediction"
    expected = torch.stack([snr, 5 * torch.ones_like(snr)], dim=1).min(dim=1)[0] / (snr + 1 if is_v else snr)
    found = min_snr_weight(schedule.alphas_cumprod[timesteps], 5, is_v=is_v)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("kind", "prediction"), [("tiny", "epsilon"), ("sdxl", "v_prediction")])
def test_the_loss_of_a_batch(kind, prediction):
    """A new net adds nothing, so the loss is that of the base alone, computed here by hand.

    x = sqrt(a) x0 + sqrt(1 - a) e and v = sqrt(a) e - sqrt(1 - a) x0 (Salimans and Ho 2022); SDXL's size
    conditioning of an uncut picture is its size, twice, around a corner at 0.
    """
    model = base(kind, prediction_type=prediction)
    model.prepare(torch.float32)
    objective = Objective(model, torch.float32)
    samples = Samples(Shapes(), 0, 0.5, objective.timesteps)
    batch = collate([samples[i] for i in range(3)])
    assert {*batch["kept"].tolist()} == {True, False}
    loss = objective.loss(encoder_copy.copy(model.unet, QUICK.hint_channels), batch).detach()

    a = DDPMScheduler.from_config(model.schedule).alphas_cumprod[batch["timestep"]][:, None, None, None]
    with torch.no_grad():
        found = model.vae.encode(batch["picture"] / 127.5 - 1).latent_dist
        latent = (found.mean + found.std * batch["draw"]) * model.vae.config.scaling_factor
        noised = a.sqrt() * latent + (1 - a).sqrt() * batch["noise"]
        texts = [text if kept else "" for text, kept in zip(batch["caption"], batch["kept"], strict=True)]
        context, pooled = Captions(model)(texts)
        sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 3)
        added = {"text_embeds": pooled, "time_ids": sizes} if kind == "sdxl" else None
        predicted = model.unet(noised, batch["timestep"], context, added_cond_kwargs=added).sample
    target = batch["noise"]
    if prediction == "v_prediction":
        target = a.sqrt() * batch["noise"] - (1 - a).sqrt() * latent
    torch.testing.assert_close(loss, ((predicted - target) ** 2).mean(), rtol=1e-5, atol=0)
