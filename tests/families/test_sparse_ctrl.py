"""SparseCtrl, against diffusers' own class on a film of one frame, whose motion modules add nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from diffusers import SparseControlNetModel
from torch import Tensor, nn

from controlstack import family
from controlstack.errors import ControlError
from controlstack.family import Start
from controlstack.joints import Call, Row
from controlstack.unit import ControlNetUnit
from controlstack.weights import Header, read_header

HEIGHT, WIDTH = 64, 96


@dataclass
class Host(nets.Host):
    """One whose VAE is a mean over squares."""

    def encode(self, picture: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(picture * 2 - 1, 8)
        return torch.cat([small, small[:, :1].square()], 1)


def published(*, latent: bool) -> SparseControlNetModel:
    """AnimateDiff's v3 models in small: `latent` reads pictures' latents, the other one scribbles."""
    torch.manual_seed(0)
    net = SparseControlNetModel(
        conditioning_channels=4 if latent else 3,
        block_out_channels=nets.SD1["block_out_channels"],
        cross_attention_dim=768,
        conditioning_embedding_out_channels=nets.HINT,
        use_simplified_condition_embedding=latent,
        motion_num_attention_heads=2,
    )
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and "controlnet_" in name:
            nn.init.kaiming_normal_(module.weight, 0 if "embedding" in name else 3)
            nn.init.normal_(module.bias, std=0.1)
        if "motion_modules" in name and name.endswith("proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("latent", [False, True], ids=["scribble", "latent"])
def test_it_adds_what_diffusers_adds_to_a_film_of_one_frame(tmp_path: Path, latent: bool) -> None:
    net = published(latent=latent)
    nets.save(tmp_path / "sparse.safetensors", net.state_dict())
    match = family.recognise(read_header(tmp_path / "sparse.safetensors"))
    assert (match.family.name, match.layers) == ("SparseCtrl", 13)
    hint, other = torch.rand(2, 1, 3, HEIGHT, WIDTH)
    torch.manual_seed(1)
    x, t = torch.randn(2, 4, HEIGHT // 8, WIDTH // 8), torch.tensor([900.0, 20.0])
    context = torch.randn(2, 7, 768)
    call = Call(x, t, context, None, (Row(0), Row(1)))
    host = Host()
    network = match.family.load(match, host)

    def added(hint: Tensor, call: Call) -> list[Tensor]:
        shown = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        given = match.family.begin(Start(network, match, hint, shown, ControlNetUnit(), host)).residuals(call)
        assert given is not None
        assert given.middle is not None
        return [*given.skips, given.middle]

    ours = added(hint, call)
    frame = host.encode(hint) if latent else hint
    given = torch.ones(2, 1, 1, *frame.shape[2:])
    skips, middle = net(
        x[:, :, None],
        t,
        context,
        controlnet_cond=frame.expand(2, -1, -1, -1)[:, :, None],
        conditioning_mask=given,
        return_dict=False,
    )
    for mine, theirs, elsewhere in zip(ours, [*skips, middle], added(other, call), strict=True):
        assert (mine - elsewhere).abs().mean() > 0.01 * mine.abs().mean() > 0
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    unseen = added(hint, Call(x + 1, t, context, None, call.rows))
    assert all(torch.equal(*pair) for pair in zip(ours, unseen, strict=True))  # it reads no latents


def test_another_hint_encoder_is_refused_in_words() -> None:
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in published(latent=True).state_dict().items()
        if "controlnet_cond_embedding" not in name
    }
    with pytest.raises(ControlError, match="reads no channels"):
        family.recognise(Header(Path("sparse.safetensors"), shapes))
