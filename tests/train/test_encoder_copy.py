"""The trainable copy is the base's encoder, and adds exactly nothing before it has learned anything."""

from __future__ import annotations

from pathlib import Path

import nets
import pytest
import torch

from controlstack.errors import ControlError
from controlstack.train import encoder_copy, saving

BASES = {name: nets.LAYOUTS[name] for name in ("sd1", "sd2", "narrow", "sdxl")}


@pytest.mark.parametrize("layout", BASES)
def test_a_fresh_copy_changes_no_bit(layout):
    unet = nets.unet(BASES[layout])
    net = encoder_copy.copy(unet, nets.HINT).eval()
    draw = torch.Generator().manual_seed(0)
    x, hint = torch.randn(2, 4, 8, 8, generator=draw), torch.rand(2, 3, 64, 64, generator=draw)
    context = torch.randn(2, 77, unet.config.cross_attention_dim, generator=draw)
    added = None
    if layout == "sdxl":
        added = {"text_embeds": torch.randn(2, 24, generator=draw), "time_ids": torch.ones(2, 6)}
    arguments = dict(timestep=torch.tensor([3, 700]), encoder_hidden_states=context, added_cond_kwargs=added)
    with torch.no_grad():
        skips, middle = net(x, controlnet_cond=hint, return_dict=False, **arguments)
        plain = unet(x, **arguments).sample
        controlled = unet(
            x, down_block_additional_residuals=skips, mid_block_additional_residual=middle, **arguments
        ).sample
    assert torch.equal(plain, controlled)
    assert len(skips) == len(unet.config.block_out_channels) * 3
    assert not any(residual.any() for residual in (*skips, middle))


@pytest.mark.parametrize("layout", BASES)
def test_the_copy_has_all_weights_of_the_encoder(layout):
    """What a ControlNet has beside the encoder is named controlnet_* in diffusers."""
    unet = nets.unet(BASES[layout])
    net = encoder_copy.copy(unet, nets.HINT)
    encoder, copied = unet.state_dict(), net.state_dict()
    names = {name for name in encoder if not name.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))}
    assert names == {name for name in copied if not name.startswith("controlnet_")}
    assert all(torch.equal(copied[name], encoder[name]) for name in names)
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(copied[name].data_ptr() != encoder[name].data_ptr() for name in names)


def test_training_goes_on_from_a_file_of_either_kind(tmp_path: Path):
    unet, net = nets.unet(nets.NARROW), nets.controlnet(nets.NARROW)
    file = tmp_path / "canny.safetensors"
    saving.save(net, file, "fp32", {})
    for path in (file, file.with_suffix("") / "diffusion_pytorch_model.safetensors"):
        loaded = encoder_copy.load(unet, path).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in net.state_dict().items())


def test_what_cannot_be_copied_or_continued(tmp_path: Path):
    inpaint = nets.unet(nets.SD1 | dict(in_channels=9))
    with pytest.raises(ControlError, match="reads 9 channels"):
        encoder_copy.copy(inpaint)
    saving.save(nets.controlnet(nets.SD2), tmp_path / "sd2.safetensors", "fp16", {})
    with pytest.raises(ControlError, match=r"made for SD2\.x.*but the checkpoint is SD1\.x"):
        encoder_copy.load(nets.unet(nets.SD1), tmp_path / "sd2.safetensors")
