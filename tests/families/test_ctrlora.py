"""CtrLoRA, against diffusers' ControlNet whose linear layers add the low-rank changes as they run. The
authors' own `ControlNetFinetune` gave the same within 3e-6 when this was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from tiny import ctrlora
from torch import Tensor, nn

from controlstack import family
from controlstack.catalog import Catalog
from controlstack.errors import ControlError
from controlstack.family import Start
from controlstack.joints import Call, Residuals, Row
from controlstack.layout import controlnet_names
from controlstack.unit import ControlNetUnit
from controlstack.weights import read_header

HEIGHT, WIDTH = 64, 96


@dataclass
class Host(nets.Host):
    """One whose VAE is a mean over squares; it takes pictures from -1 to 1."""

    def encode(self, picture: Tensor) -> Tensor:
        return vae(picture * 2 - 1)


def vae(pixels: Tensor) -> Tensor:
    small = nn.functional.avg_pool2d(pixels, 8)
    return torch.cat([small, small[:, :1].square()], 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    nets.save(tmp_path / "base.safetensors", ctrlora.beside("sd1")["base.safetensors"])
    nets.save(tmp_path / "canny.safetensors", ctrlora.tensors("sd1", 0))
    nets.save(tmp_path / "other.safetensors", nets.controlnet(nets.SD1).state_dict())
    return tmp_path


def published(changes: dict[str, Tensor]) -> ControlNetModel:
    """The base, with the changes beside its linear layers, and with its own zero convolutions and norms."""
    net = nets.controlnet(nets.SD1, seed=0)
    net.controlnet_cond_embedding = nn.Identity()
    names = controlnet_names(nets.in_ldm(nets.controlnet(nets.SD1).state_dict()))
    net.load_state_dict(
        {
            ours: changes[f"control_model.{name}"]
            for ours, name in names.items()
            if f"control_model.{name}" in changes
        },
        strict=False,
    )
    for ours, name in names.items():
        layer = f"control_model.{name.removesuffix('weight')}lora_layer."
        if f"{layer}up.weight" in changes:
            add(
                net.get_submodule(ours.removesuffix(".weight")),
                changes[f"{layer}up.weight"],
                changes[f"{layer}down.weight"],
            )
    return net


def add(linear: nn.Module, up: Tensor, down: Tensor) -> None:
    linear.register_forward_hook(lambda _, inputs, output: output + inputs[0] @ down.T @ up.T)


def test_it_adds_what_the_base_with_its_changes_adds(folder: Path) -> None:
    match = family.recognise(read_header(Catalog([folder]).find("canny")))
    assert (match.family.name, match.layers) == ("CtrLoRA", 13)
    host, hint = Host(), torch.rand(1, 3, HEIGHT, WIDTH)
    torch.manual_seed(1)
    x, t = torch.randn(2, 4, HEIGHT // 8, WIDTH // 8), torch.tensor([900.0, 20.0])
    context = torch.randn(2, 7, 768)
    network = match.family.load(match, host)

    def added(hint: Tensor) -> Residuals:
        shown = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        control = match.family.begin(Start(network, match, hint, shown, ControlNetUnit(), host))
        given = control.residuals(Call(x, t, context, None, (Row(0), Row(1))))
        assert given is not None
        return given

    ours, elsewhere = added(hint), added(1 - hint)
    plain = nets.controlnet(nets.SD1, seed=0)
    plain.controlnet_cond_embedding = nn.Identity()
    seen = vae(hint).expand(2, -1, -1, -1), t, context, torch.zeros(1, 1, 1, 1)
    skips, middle = published(ctrlora.tensors("sd1", 0))(*seen, return_dict=False)
    unchanged, _ = plain(*seen, return_dict=False)
    for mine, theirs, other, base in zip(ours.skips, skips, elsewhere.skips, unchanged, strict=True):
        assert (mine - other).abs().mean() > 0.01 * mine.abs().mean() > 0
        assert (mine - base).abs().mean() > 0.01 * mine.abs().mean()
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.middle, middle, atol=1e-5, rtol=0)


def test_a_missing_base_is_said_and_where_to_get_it(folder: Path) -> None:
    (folder / "base.safetensors").unlink()
    match = family.recognise(read_header(folder / "canny.safetensors"))
    with pytest.raises(ControlError, match="Put ctrlora_sd15_basecn700k"):
        match.family.load(match, Host())


def test_the_base_alone_is_refused(folder: Path) -> None:
    with pytest.raises(ControlError, match="knows no kind of hint by itself"):
        family.recognise(read_header(folder / "base.safetensors"))
