"""Checkpoints for depth, half precision, offload, masks with soft edges: against diffusers or a formula."""

from __future__ import annotations

import accelerate
import diffusers
import nets
import numpy as np
import pytest
import torch
from embedded_nets import write_folder, write_ldm

from controlstack import family, weights
from controlstack.errors import ControlError
from controlstack.hosts.embedded import checkpoint, latents, offload, pipeline, random_nets
from controlstack.hosts.embedded.checkpoint import TRAINED, Checkpoint
from controlstack.hosts.embedded.live_unet import LiveUNet
from controlstack.hosts.embedded.prompts import encode

CPU = torch.device("cpu")
MAKERS = {"sd1": random_nets.sd1, "sdxl": random_nets.sdxl}
RAMP = np.tile(np.linspace(0, 200, 96).astype(np.uint8), (64, 1))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def start(model: Checkpoint, **settings: object) -> pipeline.Pass:
    prompts = encode(model, ["a cat"], ["blurry"], cfg=True)
    drawing = generator()
    noise = torch.randn(1, 4, 8, 12, generator=drawing).to(model.unet.dtype)
    return pipeline.Pass(prompts, noise, [drawing], steps=4, guidance=7.0, **settings)


def run(model: Checkpoint, given: pipeline.Pass, sampler: str = "Euler") -> torch.Tensor:
    with torch.no_grad():
        return pipeline.run(pipeline.build(model, sampler, given), given, lambda pipe, step: None)


def with_channels(parts: dict, channels: int) -> dict:
    with random_nets.seeded(1):
        unet = diffusers.UNet2DConditionModel.from_config(parts["unet"].config, in_channels=channels)
    return {**parts, "unet": unet}


class TestDepth:
    @pytest.fixture(scope="class")
    def model(self):
        return Checkpoint("depth", with_channels(random_nets.sd2(), 5), dict(TRAINED)).to(CPU)

    def test_img2img_is_diffusers(self, model):
        init = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(9))
        theirs = diffusers.StableDiffusionDepth2ImgPipeline(
            **model.components,
            scheduler=diffusers.EulerDiscreteScheduler.from_config(TRAINED),
            depth_estimator=None,
            feature_extractor=None,
        )
        theirs.vae_scale_factor = 1  # it takes the size of these latents for one in px
        given = pipeline.with_depth(model, start(model, init=init, strength=0.6), RAMP)
        expected = theirs(
            image=init,
            depth_map=torch.from_numpy(RAMP.astype(np.float32))[None],
            strength=0.6,
            num_inference_steps=4,
            guidance_scale=7.0,
            generator=[generator()],
            output_type="latent",
            **given.prompts.arguments(),
        ).images
        assert torch.equal(run(model, given), expected)
        other = pipeline.with_depth(model, start(model, init=init, strength=0.6), RAMP[:, ::-1].copy())
        assert not torch.allclose(run(model, other), expected)

    def test_every_evaluation_sees_the_depth(self, model):
        """Of txt2img too: the ramp from -1, far, to 1, near, on both rows."""
        given = pipeline.with_depth(model, pipeline.for_checkpoint(model, start(model)), RAMP)
        seen = []
        outer = pipeline.watched(model.unet, lambda called: seen.append(called["sample"]))
        with outer:
            run(model, given)
        assert [sample.shape for sample in seen] == [(2, 5, 8, 12)] * 4
        for sample in seen:
            np.testing.assert_allclose(sample[0, 4, 3], np.linspace(-1, 1, 12), atol=0.03)
            assert torch.equal(sample[0, 4], sample[1, 4])
        assert (seen[0][0, 4].min(), seen[0][0, 4].max()) == (-1, 1)

    def test_what_it_cannot_do_is_said(self, model):
        with pytest.raises(ControlError, match="paints after a depth picture, and there is none"):
            pipeline.with_depth(model, start(model), None)
        with pytest.raises(ControlError, match="for depth cannot inpaint"):
            pipeline.for_checkpoint(
                model, start(model, init=torch.zeros(1, 4, 8, 12), mask=torch.ones(1, 1, 8, 12))
            )

    def test_a_flat_picture_is_all_far(self, model):
        given = pipeline.with_depth(model, start(model), np.full((64, 96), 7, np.uint8))
        assert (given.depth == -1).all()

    def test_other_checkpoints_want_none(self):
        model = Checkpoint("sd1", random_nets.sd1(), dict(TRAINED)).to(CPU)
        assert pipeline.with_depth(model, start(model), RAMP).depth is None

    @pytest.mark.parametrize(
        ("channels", "facts"), [(5, (True, False)), (9, (False, True)), (4, (False, False))]
    )
    def test_files_and_folders(self, channels, facts, tmp_path):
        parts = with_channels(random_nets.sd2(), channels)
        kinds = {5: "Depth2Img", 9: "Inpaint", 4: "Img2Img"}
        folder = write_folder(parts, tmp_path / "folder")
        index = folder / "model_index.json"
        index.write_text(
            index.read_text().replace(
                '"StableDiffusionPipeline"', f'"StableDiffusion{kinds[channels]}Pipeline"'
            )
        )
        for path in (folder, write_ldm(parts, tmp_path / "file.safetensors")):
            model = checkpoint.load(path, CPU)
            assert (model.wants_depth, model.wants_mask) == facts
            assert model.components.keys() == parts.keys()


def test_a_file_says_that_its_noise_ends_in_noise_alone(tmp_path):
    """SDXL checkpoints of v-prediction carry empty tensors `v_pred` and `ztsnr`."""
    from safetensors.torch import load_file, save_file

    plain = write_ldm(random_nets.sdxl(), tmp_path / "plain.safetensors")
    marked = tmp_path / "marked.safetensors"
    save_file({**load_file(plain), "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, marked)
    for file, said in ((plain, ("epsilon", False)), (marked, ("v_prediction", True))):
        schedule = checkpoint.read(file).schedule
        assert (schedule["prediction_type"], schedule["rescale_betas_zero_snr"]) == said


@pytest.mark.parametrize("kind", MAKERS)
def test_bf16_paints_nearly_the_same(kind):
    whole = run(single := Checkpoint(kind, MAKERS[kind](), dict(TRAINED)).to(CPU), start(single))
    half = Checkpoint(kind, MAKERS[kind](), dict(TRAINED)).to(CPU, torch.bfloat16)
    assert {name: net.dtype for name, net in half.nets().items()} == {
        name: torch.float32 if name == "vae" else torch.bfloat16 for name in half.nets()
    }
    sampled = run(half, start(half))
    assert sampled.dtype == torch.bfloat16
    correlation = np.corrcoef(whole.flatten(), sampled.float().flatten())[0, 1]
    assert correlation > 0.98
    assert latents.decode(half.vae, sampled).dtype == torch.float32


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("way", [offload.WHOLE_NETS, offload.SINGLE_LAYERS])
def test_offload_changes_no_number(kind, way):
    """With the CPU as the device that parts are brought to: accelerate's hooks do all they do for a card."""
    pictures = torch.rand(1, 3, 64, 96, generator=generator())

    def whole_job(model):
        with torch.no_grad():
            init = latents.encode(model.vae, pictures)
            return latents.decode(model.vae, run(model, start(model, init=init, strength=0.6)))

    def made():
        return Checkpoint(kind, MAKERS[kind](), dict(TRAINED))

    if way == offload.WHOLE_NETS:
        spared = offload.offload(made(), CPU, torch.float32, way)
    else:  # diffusers calls the device cpu:0, which accelerate does not take for the CPU
        spared = made().to(CPU)
        for net in spared.nets().values():
            accelerate.cpu_offload(net, CPU)
    expected = whole_job(made().to(CPU))
    for _ in range(2):
        assert torch.equal(whole_job(spared), expected)
    elsewhere = {net.device.type for net in spared.nets().values()}
    assert elsewhere == ({"meta"} if way == offload.SINGLE_LAYERS else {"cpu"})


def test_offloaded_weights_are_read_all_the_same():
    """A control file of differences takes the checkpoint's weights, wherever they are."""
    model, spared = (Checkpoint("sd1", random_nets.sd1(), dict(TRAINED)).to(CPU) for _ in range(2))
    accelerate.cpu_offload(spared.unet, CPU)
    assert {tensor.device.type for tensor in spared.unet.parameters()} == {"meta"}
    for name, tensor in model.unet.named_parameters():
        assert torch.equal(LiveUNet(spared.unet).weight(name), tensor)
    assert LiveUNet(spared.unet).weight("controlnet_cond_embedding.conv_in.weight") is None


def test_a_difference_file_beside_offload(tmp_path):
    """Its network is the same as beside a checkpoint that lies where it computes."""
    net = nets.controlnet(nets.SD1 | dict(cross_attention_dim=64))
    stored = nets.in_ldm(net.state_dict()) | {"difference": torch.zeros(1)}
    match = family.recognise(weights.read_header(nets.save(tmp_path / "diff.safetensors", stored)))
    model, spared = (Checkpoint("sd1", random_nets.sd1(), dict(TRAINED)).to(CPU) for _ in range(2))
    accelerate.cpu_offload(spared.unet, CPU)
    expected, found = (match.family.load(match, LiveUNet(one.unet)).state_dict() for one in (model, spared))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not torch.equal(found["net.conv_in.weight"], net.state_dict()["conv_in.weight"])


def test_on_the_cpu_offload_says_that_it_does_nothing(caplog):
    model = offload.place(
        Checkpoint("sd1", random_nets.sd1(), dict(TRAINED)), CPU, torch.float32, offload.WHOLE_NETS
    )
    said = [record.message for record in caplog.records if record.name == "ControlStack"]
    assert said == ["--lowvram and --medvram spare a CUDA card's memory; on cpu they do nothing."]
    assert not hasattr(model.unet, "_hf_hook")


@pytest.mark.parametrize("kind", MAKERS)
def test_a_mask_between_keeping_and_painting_blends(kind):
    """The last step's result times the mask plus the picture times the rest, as RePaint (Lugmayr 2022)."""
    model = Checkpoint(kind, MAKERS[kind](), dict(TRAINED)).to(CPU)
    init = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(9))
    mask = torch.linspace(0, 1, 12).expand(1, 1, 8, 12)
    given = start(model, init=init, strength=0.6, mask=mask)
    pipe = pipeline.build(model, "Euler", given)
    stepped = []
    step = pipe.scheduler.step

    def recorded(*args, **kwargs):
        stepped.append(step(*args, **kwargs))
        return stepped[-1]

    pipe.scheduler.step = recorded
    with torch.no_grad():
        found = pipeline.run(pipe, given, lambda pipe, step: None)
    torch.testing.assert_close(found, mask * stepped[-1][0] + (1 - mask) * init)
