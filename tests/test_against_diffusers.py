"""The same nets, the same seed: our units on a plain pipeline against diffusers' own ControlNet pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray
from torch import Tensor, nn

from controlstack import plan, preprocess
from controlstack.catalog import Catalog
from controlstack.evaluation import Evaluation
from controlstack.hosts import unet_diffusers
from controlstack.joints import Call
from controlstack.schedule import soft_weight
from controlstack.session import Session
from controlstack.sources import Job
from controlstack.unit import parse
from controlstack.weights import Loaded

SIZE, STEPS, GUIDANCE = 128, 6, 3.0
SD1 = dict(
    block_out_channels=(32, 64, 64, 64),
    layers_per_block=2,
    cross_attention_dim=24,
    attention_head_dim=8,
)
SDXL = dict(
    block_out_channels=(32, 64, 64),
    layers_per_block=2,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    transformer_layers_per_block=(1, 1, 2),
    cross_attention_dim=32,
    attention_head_dim=(1, 1, 1),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=16 + 6 * 8,
)
UP = {
    4: ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    3: ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}


class World:
    """A tiny checkpoint, three control models on disk, and a prompt."""

    def __init__(self, folder: Path, config: dict[str, object], *, xl: bool) -> None:
        torch.manual_seed(0)
        self.xl = xl
        self.unet = UNet2DConditionModel(
            sample_size=64, **config, up_block_types=UP[len(config["block_out_channels"])]
        ).eval()
        self.vae = AutoencoderKL(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
        ).eval()
        self.nets = [self._control(folder / f"net{i}.safetensors", config) for i in range(3)]
        self.catalog = Catalog([folder])
        dim, tokens = config["cross_attention_dim"], 7
        self.prompt, self.negative = torch.randn(2, tokens, dim), torch.randn(2, tokens, dim)
        self.pooled, self.negative_pooled = torch.randn(2, 16), torch.randn(2, 16)
        # A random net's eps is not the noise, and what is left grows past the precision of fp32. A tenth of
        # both keeps latents at a trained net's size.
        self.latents = torch.randn(2, 4, SIZE // 8, SIZE // 8) / 10
        with torch.no_grad():
            self.unet.conv_out.weight /= 10
            self.unet.conv_out.bias /= 10

    def _control(self, path: Path, config: dict[str, object]) -> ControlNetModel:
        """A ControlNet whose zero convolutions are not zero, saved under diffusers' names."""
        net = ControlNetModel(**config, conditioning_embedding_out_channels=(8, 8, 16, 16)).eval()
        for conv in (
            *net.controlnet_down_blocks,
            net.controlnet_mid_block,
            net.controlnet_cond_embedding.conv_out,
        ):
            nn.init.normal_(conv.weight, std=0.15)
            nn.init.normal_(conv.bias, std=0.15)
        net.save_pretrained(path.parent / path.stem, safe_serialization=True)
        (path.parent / path.stem / "diffusion_pytorch_model.safetensors").rename(path)
        return net

    def pipeline(self, plain: type, *, scheduler: type = DDIMScheduler, **extra: object) -> object:
        parts = dict(
            vae=self.vae,
            unet=self.unet,
            text_encoder=None,
            tokenizer=None,
            scheduler=scheduler(**BETAS, **SAMPLER.get(scheduler, {})),
            **extra,
        )
        if self.xl:
            parts |= dict(text_encoder_2=None, tokenizer_2=None, add_watermarker=False)
        else:
            parts |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        pipe = plain(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe: object, guidance: float = GUIDANCE, **extra: object) -> Tensor:
        if self.xl:
            extra |= dict(
                pooled_prompt_embeds=self.pooled, negative_pooled_prompt_embeds=self.negative_pooled
            )
        return pipe(
            prompt_embeds=self.prompt,
            negative_prompt_embeds=self.negative,
            latents=self.latents.clone(),
            height=SIZE,
            width=SIZE,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            output_type="latent",
            **extra,
        ).images

    def plain(self, **options: object) -> object:
        return self.pipeline(StableDiffusionXLPipeline if self.xl else StableDiffusionPipeline, **options)

    @cache  # noqa: B019  lives as long as the tests of one world
    def without_control(self, guidance: float = GUIDANCE, scheduler: type = DDIMScheduler) -> Tensor:
        return self.run(self.plain(scheduler=scheduler), guidance)

    def theirs(
        self,
        nets: Sequence[int],
        scales: object,
        starts: object,
        ends: object,
        *,
        guess: bool = False,
        **options: object,
    ) -> Tensor:
        kind = StableDiffusionXLControlNetPipeline if self.xl else StableDiffusionControlNetPipeline
        pipe = self.pipeline(kind, controlnet=[self.nets[i] for i in nets], **options)
        return self.run(
            pipe,
            image=[torch.from_numpy(hint(i)).permute(2, 0, 1)[None] / 255 for i in nets],
            controlnet_conditioning_scale=scales,
            control_guidance_start=starts,
            control_guidance_end=ends,
            guess_mode=guess,
        )

    def ours(
        self, units: Sequence[dict[str, object]], guidance: float = GUIDANCE, **options: object
    ) -> tuple[Tensor, int]:
        """The latents, and how often a control network was called."""
        pipe = self.plain(**options)
        job = Job(width=SIZE, height=SIZE, base=unet_diffusers.base_of(self.unet))
        plans = [plan.resolve(i, parse(unit), job, self.catalog) for i, unit in enumerate(units)]
        session = Session(Loaded(3), preprocess.Cache(), plans)
        session.prepare()
        session.begin(SIZE, SIZE, unet_diffusers.LiveUNet(self.unet), hires=False)
        calls = 0

        def step(call: Call) -> Evaluation | None:
            nonlocal calls
            answer = session.step(call)
            calls += answer is not None
            return answer

        with unet_diffusers.follow(
            self.unet, step, session.joints, pictures=2, evaluations=lambda: pipe.num_timesteps
        ):
            return self.run(pipe, guidance), calls


BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
SAMPLER = {DDIMScheduler: dict(clip_sample=False)}


def hint(i: int) -> NDArray[np.uint8]:
    return np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def unit(i: int, **fields: object) -> dict[str, object]:
    return {"model": f"net{i}", "module": "none", "image": hint(i), **fields}


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    xl = request.param == "sdxl"
    return World(tmp_path_factory.mktemp(request.param), SDXL if xl else SD1, xl=xl)


def assert_same(ours: Tensor, theirs: Tensor, plain: Tensor) -> None:
    assert (theirs - plain).abs().mean() > 0.02 * theirs.std(), "no control: this would prove nothing"
    assert (ours - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler])
def test_one_unit(world: World, scheduler: type) -> None:
    ours, calls = world.ours([unit(0, weight=0.8)], scheduler=scheduler)
    assert calls == (2 * STEPS - 1 if scheduler is HeunDiscreteScheduler else STEPS)
    theirs = world.theirs([0], 0.8, 0.0, 1.0, scheduler=scheduler)
    assert_same(ours, theirs, world.without_control(scheduler=scheduler))


def test_three_stacked_units_with_windows(world: World) -> None:
    windows = [(0.0, 0.5), (0.3, 1.0), (0.2, 0.7)]
    weights = [1.0, 0.5, 1.5]
    ours, calls = world.ours(
        [
            unit(i, weight=w, guidance_start=s, guidance_end=e)
            for i, (w, (s, e)) in enumerate(zip(weights, windows, strict=True))
        ]
    )
    assert calls == STEPS
    starts, ends = map(list, zip(*windows, strict=True))
    assert_same(ours, world.theirs([0, 1, 2], weights, starts, ends), world.without_control())


def test_a_window_skips_the_network(world: World) -> None:
    # evaluation i of 6 is active iff i/6 >= 0.3 and (i+1)/6 <= 0.7: i = 2, 3
    ours, calls = world.ours([unit(0, guidance_start=0.3, guidance_end=0.7)])
    assert calls == 2
    assert_same(ours, world.theirs([0], 1.0, 0.3, 0.7), world.without_control())


def test_guess_mode_is_control_mode_with_its_scales_as_layers(world: World) -> None:
    # diffusers' guess mode: positive rows only, residual i of n scaled by logspace(-1, 0, n)[i]
    layers = torch.logspace(-1, 0, len(world.nets[0].controlnet_down_blocks) + 1).tolist()
    ours, _ = world.ours([unit(0, control_mode="ControlNet is more important", advanced_weighting=layers)])
    assert_same(ours, world.theirs([0], 1.0, 0.0, 1.0, guess=True), world.without_control())


def test_without_a_negative_prompt_there_are_only_positive_rows(world: World) -> None:
    pipe = world.pipeline(
        StableDiffusionXLControlNetPipeline if world.xl else StableDiffusionControlNetPipeline,
        controlnet=world.nets[0],
    )
    theirs = world.run(pipe, guidance=1.0, image=torch.from_numpy(hint(0)).permute(2, 0, 1)[None] / 255)
    for mode in ("Balanced", "ControlNet is more important"):
        ours, _ = world.ours(
            [
                unit(
                    0,
                    control_mode=mode,
                    advanced_weighting=[1.0] * (len(world.nets[0].controlnet_down_blocks) + 1),
                )
            ],
            1.0,
        )
        assert_same(ours, theirs, world.without_control(guidance=1.0))


def test_soft_weights_are_the_published_ones(world: World) -> None:
    # lllyasviel/ControlNet: control_scales = [strength * (0.825 ** float(12 - i)) for i in range(13)]
    blocks = len(world.nets[0].controlnet_down_blocks)
    published = [0.6 * (0.825 ** float(12 - i)) for i in range(13)][: blocks + 1]
    soft, _ = world.ours([unit(0, weight=0.6, control_mode="My prompt is more important")])
    listed, _ = world.ours([unit(0, advanced_weighting=published)])
    full, _ = world.ours([unit(0, weight=0.6)])
    plain = world.without_control()
    assert (full - soft).abs().mean() > 0.001
    assert_same(soft, listed, plain)
    assert [soft_weight(i) for i in (0, 11, 12)] == pytest.approx([0.099414, 0.825, 1.0], abs=1e-6)


@pytest.mark.parametrize(
    "still",
    [
        dict(weight=0.0),
        dict(weight=0.0, advanced_weighting=None, control_mode="ControlNet is more important"),
        dict(guidance_start=0.9, guidance_end=0.95),
        dict(effective_region_mask=np.zeros((SIZE, SIZE), np.uint8)),
    ],
    ids=["weight 0", "weight 0, control mode", "outside the window", "empty region"],
)
def test_what_must_not_act_changes_no_bit_and_calls_no_network(
    world: World, still: dict[str, object]
) -> None:
    plain = world.without_control()
    acting, called = world.ours([unit(0)])
    assert called == STEPS
    assert (acting - plain).abs().mean() > 0.005
    calls = 0
    original = ControlNetModel.forward

    def counted(self: ControlNetModel, *args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ControlNetModel, "forward", counted)
        world.ours([unit(0)])
        assert calls == STEPS
        calls = 0
        latents, _ = world.ours([unit(0, **still)])
    assert calls == 0
    assert torch.equal(latents, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in world.unet.modules())


def test_a_region_mask_is_the_residuals_inside_it(world: World) -> None:
    left = np.zeros((SIZE, SIZE), np.uint8)
    left[:, : SIZE // 2] = 255
    everywhere, _ = world.ours([unit(0, effective_region_mask=np.full((SIZE, SIZE), 255, np.uint8))])
    without, _ = world.ours([unit(0)])
    assert torch.equal(everywhere, without)
    half, _ = world.ours([unit(0, effective_region_mask=left)])
    plain = world.without_control()
    change = (half - plain).abs().mean(dim=(0, 1, 2))
    assert change[: SIZE // 16].mean() > 0.005
    assert not torch.equal(half, without)
