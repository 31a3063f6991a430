"""A base loads the same from an LDM file, from a diffusers folder, and as it was made."""

from __future__ import annotations

import pytest
import torch
from embedded_nets import open_clip, write_folder, write_ldm
from safetensors.torch import load_file

from controlstack.errors import ControlError
from controlstack.hosts.embedded import checkpoint, random_nets, text_encoders

CPU = torch.device("cpu")
KINDS = {"sd1": random_nets.sd1, "sd2": random_nets.sd2, "sdxl": random_nets.sdxl}


@pytest.mark.parametrize("kind", KINDS)
def test_file_and_folder_hold_the_same_nets(kind, tmp_path):
    parts = KINDS[kind](seed=3)
    from_file = checkpoint.load(write_ldm(parts, tmp_path / "base.safetensors"), CPU)
    from_folder = checkpoint.load(write_folder(parts, tmp_path / "base"), CPU)
    for loaded in (from_file, from_folder):
        assert loaded.components.keys() == parts.keys()
        assert (loaded.is_sd1, loaded.is_sd2, loaded.is_sdxl) == tuple(kind == k for k in KINDS)
        for name, part in parts.items():
            if isinstance(part, torch.nn.Module):
                ours, theirs = loaded.components[name].state_dict(), part.state_dict()
                assert ours.keys() == theirs.keys()
                assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for name in ("attention_head_dim", "transformer_layers_per_block", "norm_num_groups"):
        told = from_file.unet.config.get(name), parts["unet"].config.get(name)
        assert len({repr(_levels(value, parts["unet"])) for value in told}) == 1, name
    assert from_file.vae.config.scaling_factor == parts["vae"].config.scaling_factor


def _levels(value, unet):
    """One number stands for all levels."""
    return (
        tuple(value) if isinstance(value, (list, tuple)) else (value,) * len(unet.config.block_out_channels)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_reads_prompts_and_pictures_as_the_nets_do(kind, tmp_path):
    parts = KINDS[kind](seed=3)
    loaded = checkpoint.load(write_ldm(parts, tmp_path / "base.safetensors"), CPU).components
    ids = torch.tensor([parts["tokenizer"]("a photo of a cat", padding="max_length").input_ids])
    for name in ("text_encoder", "text_encoder_2"):
        if name in parts:
            ours, theirs = (p[name].eval()(ids, output_hidden_states=True) for p in (loaded, parts))
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours.hidden_states[-2], theirs.hidden_states[-2])
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (p["vae"].encode(picture).latent_dist.mean for p in (loaded, parts))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_a_ckpt_file_of_2022(tmp_path):
    """A pickle with everything under "state_dict", and CLIP's names without "text_model."."""
    parts = random_nets.sd1(seed=3)
    tensors = load_file(write_ldm(parts, tmp_path / "base.safetensors"))
    old = {
        name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in tensors.items()
    }
    torch.save({"state_dict": old, "global_step": 1}, tmp_path / "base.ckpt")
    loaded = checkpoint.load(tmp_path / "base.ckpt", CPU).components
    for name in ("unet", "vae", "text_encoder"):
        ours, theirs = loaded[name].state_dict(), parts[name].state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_open_clip_names_against_diffusers_conversion():
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    encoder = random_nets.sdxl()["text_encoder_2"]
    prefix = "conditioner.embedders.1.model."
    file = open_clip(encoder)
    theirs = convert_open_clip_checkpoint(encoder, {prefix + n: t for n, t in file.items()}, prefix=prefix)
    ours = text_encoders.open_clip(file)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("metadata", "asked", "means"),
    [
        (None, None, "eps"),
        (None, "v", "v"),
        ({"modelspec.prediction_type": "v"}, None, "v"),
        ({"modelspec.prediction_type": "epsilon"}, None, "eps"),
        ({"modelspec.prediction_type": "v"}, "eps", "eps"),
    ],
)
def test_prediction_type(metadata, asked, means, tmp_path):
    path = write_ldm(random_nets.sd2(), tmp_path / "base.safetensors", metadata)
    assert checkpoint.load(path, CPU, asked).parameterization == means


def test_a_folder_says_what_it_predicts(tmp_path):
    folder = write_folder(random_nets.sd2(), tmp_path / "base", prediction_type="v_prediction")
    assert checkpoint.load(folder, CPU).parameterization == "v"


def test_random_nets_do_not_disturb_other_random_numbers():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    random_nets.sd1()
    assert torch.equal(torch.rand(3), expected)


def test_what_is_no_base_is_named(tmp_path):
    with pytest.raises(ControlError, match="There is no checkpoint at"):
        checkpoint.load(tmp_path / "absent.safetensors", CPU)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ControlError, match="holds a FluxPipeline"):
        checkpoint.load(tmp_path, CPU)
