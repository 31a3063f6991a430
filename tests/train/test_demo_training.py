"""How the demo models are made: the optimiser, stages that survive a kill, blocks at rest, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from controlstack.hosts.embedded import checkpoint
from controlstack.train.demo import base, files, make, muon, stage, vae


def test_orthogonal_brings_all_singular_values_near_one() -> None:
    """Five iterations with Jordan's coefficients end between 0.7 and 1.2; bfloat16 adds a little."""
    torch.manual_seed(0)
    for shape in ((3, 32, 80), (2, 80, 32)):
        values = torch.linalg.svdvals(muon.orthogonal(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3


def _stage(file: Path, steps: int, stop: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 24), nn.SiLU(), nn.Linear(24, 20))

    def loss(step: int) -> Tensor:
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(16, 20)
        return (net(x) - x.flip(1)).square().mean()

    stage.train(file, {"net": net}, loss, steps, 0.01)
    return net


def test_a_killed_stage_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _stage(tmp_path / "whole.pt", 30)
    monkeypatch.setattr(stage, "SAVE_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        _stage(tmp_path / "cut.pt", 30, stop=13)
    resumed = _stage(tmp_path / "cut.pt", 30)
    for ours, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_stage_with_its_result_rests(tmp_path: Path) -> None:
    """As after a kill in a later one; what a kill left half written is no result."""
    trained: list[Path] = []
    run = make.once("vae", trained.append)
    (tmp_path / "vae.done.pt.part").touch()
    run(tmp_path)
    assert trained == [tmp_path]
    torch.save(vae.build().state_dict(), tmp_path / "vae.done.pt")
    run(tmp_path)
    assert trained == [tmp_path]
    make.trained_vae(tmp_path)


def test_blocks_at_rest_are_what_diffusers_computes() -> None:
    """Skipping them while training is exact: the same tensors in an untouched AutoencoderKL give the same."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    ours = vae.build()
    theirs = AutoencoderKL.from_config(ours.config)
    theirs.load_state_dict(ours.state_dict())
    pictures = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(ours, pictures)
        assert torch.allclose(latents, theirs.encode(pictures).latent_dist.mean, atol=1e-5)
        assert torch.allclose(vae.decode(ours, latents), theirs.decode(latents).sample, atol=1e-5)


def test_normalising_changes_latents_and_no_picture() -> None:
    torch.manual_seed(0)
    autoencoder = vae.build()
    pictures = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.decode(autoencoder, vae.encode(autoencoder, pictures))
        vae.normalise(autoencoder, vae.encode(autoencoder, pictures))
        latents = vae.encode(autoencoder, pictures)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)) * vae.SCALE, torch.ones(4), atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(vae.decode(autoencoder, latents), before, atol=1e-4)


def test_the_base_survives_its_file(tmp_path: Path) -> None:
    """What the embedded host loads computes what was trained, in halves, with heads and prediction read."""
    torch.manual_seed(0)
    unet, autoencoder, text = base.build_unet(), vae.build(), base.build_text_encoder()
    for net in (unet, autoencoder, text):
        net.half().float()
    nn.init.normal_(unet.conv_out.weight)
    unet.half().float()
    read = checkpoint.read(files.save_base(tmp_path, unet, autoencoder, text))
    assert read.parameterization == "v"
    x, context = torch.randn(1, 4, 16, 16), torch.randn(1, 77, base.TEXT)
    tokens = torch.randint(0, 49408, (1, 77))
    with torch.no_grad():
        t = torch.tensor([500])
        assert torch.allclose(read.unet(x, t, context).sample, unet(x, t, context).sample, atol=1e-4)
        ours = text(tokens).last_hidden_state
        assert torch.allclose(read.components["text_encoder"](tokens).last_hidden_state, ours, atol=1e-5)
        assert torch.allclose(read.vae.decode(x).sample, vae.decode(autoencoder, x), atol=1e-4)


def test_installed_models_bring_what_ldm_wants_of_the_text_encoder(tmp_path: Path) -> None:
    """transformers builds the encoder and the tokenizer from the folder that the yaml names."""
    from transformers import CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    text = base.build_text_encoder().half().float()
    models, webui = tmp_path / "models", tmp_path / "webui"
    files.save_base(models, base.build_unet(), vae.build(), text)
    files.install(webui, models)
    config = (webui / "models/Stable-diffusion/controlstack-demo.yaml").read_text(encoding="utf-8")
    folder = json.loads(next(line for line in config.splitlines() if "version:" in line).split(":", 1)[1])
    words = CLIPTokenizer.from_pretrained(folder)("a red sphere").input_ids
    vocabulary = json.loads(Path(folder, "vocab.json").read_text(encoding="utf-8"))
    assert words[1:-1] == [vocabulary[word] for word in ("a</w>", "red</w>", "sphere</w>")]
    tokens = torch.tensor([words])
    with torch.no_grad():
        built = CLIPTextModel.from_pretrained(folder)(tokens).last_hidden_state
        assert torch.allclose(built, text(tokens).last_hidden_state, atol=1e-5)
