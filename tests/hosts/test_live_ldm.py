"""What the adapter tells families of a checkpoint in LDM's own classes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import nets
import pytest
import torch
from test_unet_ldm import ldm_unet
from torch import nn

from controlstack.hosts.live_ldm import LiveLDM, base_of
from controlstack.layout import Base

model = pytest.importorskip("ldm.modules.diffusionmodules.model", reason="the genuine ldm package is absent")
distributions = pytest.importorskip("ldm.modules.distributions.distributions")


class Vae(nn.Module):
    """`encode` of LDM's `AutoencoderKL`, whose own module needs pytorch_lightning."""

    def __init__(self) -> None:
        super().__init__()
        config = dict(double_z=True, z_channels=4, resolution=32, in_channels=3, out_ch=3, ch=32)
        config |= dict(ch_mult=[1, 1, 1, 1], num_res_blocks=1, attn_resolutions=[], dropout=0.0)
        self.encoder, self.quant_conv = model.Encoder(**config), nn.Conv2d(8, 8, 1)

    def encode(self, x: torch.Tensor) -> Any:
        return distributions.DiagonalGaussianDistribution(self.quant_conv(self.encoder(x)))


def checkpoint(**parts: Any) -> Any:
    """As A1111 holds one: the UNet inside a wrapper that knows what it is conditioned on."""
    wrapper = SimpleNamespace(diffusion_model=ldm_unet(), conditioning_key="crossattn")
    file = SimpleNamespace(filename="one.safetensors")
    return SimpleNamespace(model=wrapper, sd_checkpoint_info=file, parameterization="eps", **parts)


def live(holder: Any, dtype: torch.dtype = torch.float32) -> LiveLDM:
    return LiveLDM(holder, torch.device("cpu"), dtype)


def test_what_the_checkpoint_is() -> None:
    assert base_of(checkpoint()) == Base(width=32, context=24, vector=None, blocks=12)


def test_its_weights_by_diffusers_names_as_they_were_before_a_lora() -> None:
    """The names of the original code are those of `nets.in_ldm`, made without the converter."""
    holder = checkpoint()
    unet = holder.model.diffusion_model
    services = live(holder, torch.float16)
    names = nets.in_ldm(
        {name: name for name in nets.unet(nets.SD1 | dict(cross_attention_dim=24)).state_dict()}
    )
    stored = unet.state_dict()
    assert len(names) == len(stored)
    for ldm, ours in names.items():
        weight = services.weight(ours)
        assert weight is not None
        assert torch.equal(weight, stored[ldm].half()), ours
    attention = unet.middle_block[1].transformer_blocks[0].attn1.to_q
    attention.network_weights_backup = attention.weight.detach().clone()
    attention.weight.data.zero_()
    kept = services.weight("mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight")
    assert kept is not None
    assert torch.equal(kept, attention.network_weights_backup.half())
    assert services.weight("controlnet_mid_block.weight") is None


def test_other_weights_are_another_checkpoint() -> None:
    holder = checkpoint()
    before = live(holder).checkpoint
    holder.sd_checkpoint_info = SimpleNamespace(filename="two.safetensors")
    assert live(holder).checkpoint != before


@pytest.mark.parametrize("draws", [False, True], ids=["LDM", "sgm"])
def test_latents_are_the_mean_also_where_the_vae_would_draw(draws: bool) -> None:
    """sgm's `encode` answers with a sample of the distribution; its mean is what both put out before."""
    torch.manual_seed(0)
    vae = Vae().eval()
    picture = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        mean = vae.encode(picture * 2 - 1).mode()
    plain = vae.encode
    if draws:
        vae.encode = lambda x: plain(x).sample()
    host = live(checkpoint(first_stage_model=vae, scale_factor=0.25))
    before = torch.get_rng_state()
    latents = host.encode(picture)
    assert torch.equal(torch.get_rng_state(), before), "the host's own noise would be another"
    assert torch.equal(latents, mean * 0.25)
    assert not vae.quant_conv._forward_hooks


def test_predictions_by_the_checkpoints_own_schedule() -> None:
    """At t the noise is sqrt(1 - alphas_cumprod[t]) (Ho et al., arXiv 2006.11239, equation 4)."""
    alphas = torch.linspace(0.99, 0.01, 1000)
    holder = checkpoint(alphas_cumprod=alphas)
    for parameterization, kind in (("eps", "epsilon"), ("v", "v_prediction")):
        holder.parameterization = parameterization
        found = live(holder).prediction(torch.tensor([500.0]))
        assert found.kind == kind
        assert found.noise.item() == pytest.approx((1 - alphas[500]).sqrt().item(), abs=1e-5)
