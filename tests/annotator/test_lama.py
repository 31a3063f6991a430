"""LaMa's layout and numbers, with random weights, and what the preprocessor makes of its paintings."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import weights
from torch import Tensor

from controlstack import geometry, sources
from controlstack.annotator.masks import lama
from controlstack.errors import ControlError
from controlstack.image import Array, Picture
from controlstack.layout import Base
from controlstack.networks import Networks
from controlstack.preprocess import find
from controlstack.unit import ResizeMode

LAMA = find("inpaint_only+lama")


def random(layout: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under which features neither die nor grow, and the last layer does not saturate."""
    generator = torch.Generator().manual_seed(3)
    made = {
        name: torch.randn(t.shape, generator=generator) / max(t[0].numel(), 1) ** 0.5 if t.dim() else t * 0
        for name, t in layout.items()
    }
    gains = ("bn_l.weight", "bn_g.weight", "bn.weight", ".1.weight")
    made |= {n: 1 + 0.2 * t for n, t in made.items() if n.endswith(gains) and t.dim() == 1}
    made |= {n: t.abs() + 0.5 for n, t in made.items() if n.endswith("running_var")}
    last = next(name for name in reversed(made) if made[name].dim() == 4)
    made[last] /= 1000
    return made


def small() -> dict[str, Tensor]:
    """The same network with four channels, one of them local in its middle, and one block."""
    return random(dict(lama._Lama(4, 8, 1).state_dict()))


def test_the_published_network() -> None:
    """Layout, and every 16th pixel in levels: FFCResNetGenerator of advimman/lama at 786f593 with the numbers
    of its configs/training/big-lama.yaml, to which `lama._Lama` is equal to the bit."""
    state = {f"generator.{name}": t for name, t in random(weights.listed("lama.txt")).items()}
    network = lama._network({**state, "discriminator.model0.0.weight": torch.zeros(1)}).eval()
    x = torch.rand(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        painted = (network(x)[0, :, 4::16, 8::16] * 255).round()
    expected = [
        [[115, 118, 118, 158], [118, 120, 119, 159], [122, 122, 122, 161], [121, 121, 122, 161]],
        [[171, 167, 168, 137], [171, 168, 168, 136], [166, 166, 166, 135], [166, 166, 165, 134]],
        [[229, 228, 229, 229], [228, 228, 227, 228], [225, 226, 226, 227], [225, 225, 225, 226]],
    ]
    assert (painted - torch.tensor(expected)).abs().max() <= 1


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """As PyTorch Lightning nests a checkpoint."""
    state = {f"generator.{name}": t for name, t in small().items()}
    folder = tmp_path_factory.mktemp("downloads")
    return weights.published(folder, LAMA.files[0], state, lambda held: {"state_dict": held})


def test_what_is_masked_is_filled_at_256_px(networks: Networks, chelsea: Array) -> None:
    """The picture's own pixels outside, the network's inside, a blend by the mask's own grey between them."""
    mask = np.zeros(chelsea.shape[:2], np.uint8)
    mask[100:200, 150:250] = 255
    mask[100:200, 250:260] = 100
    before = chelsea.copy()
    made = LAMA.run(chelsea, replace(LAMA.ask(mask=mask), networks=networks))
    assert made.shape == (*chelsea.shape[:2], 4)
    assert np.array_equal(made[..., 3], mask)
    assert np.array_equal(made[mask == 0][:, :3], chelsea[mask == 0])
    assert np.array_equal(chelsea, before)

    small_picture, crop = geometry.padded(np.dstack([chelsea, mask]), 256)
    covered = (small_picture[..., 3:] > 127).astype(np.float32)
    seen = np.concatenate([small_picture[..., :3] / 255 * (1 - covered), covered], axis=2)
    x = torch.from_numpy(seen).float().permute(2, 0, 1)[None]
    network = networks.get(LAMA.files[0], lama._network)
    with torch.no_grad():
        painted = network(x)[0].permute(1, 2, 0).numpy()
    painted = ((painted * covered + seen[..., :3]) * 255).astype(np.uint8)[crop]
    painted = cv2.resize(painted, chelsea.shape[1::-1]).astype(float)
    assert np.abs(made[mask == 255][:, :3] - painted[mask == 255]).max() <= 1
    share = 100 / 255
    blended = share * painted[mask == 100] + (1 - share) * chelsea[mask == 100]
    assert np.abs(made[mask == 100][:, :3] - blended).max() <= 1
    assert np.abs(made[..., :3].astype(int) - chelsea).max() > 20


def test_a_picture_of_any_size_is_taken(networks: Networks) -> None:
    for height, width in ((1, 1), (65, 200)):
        picture = np.full((height, width, 3), 90, np.uint8)
        mask = np.full((height, width), 255, np.uint8)
        made = LAMA.run(picture, replace(LAMA.ask(mask=mask), networks=networks))
        assert made.shape == (height, width, 4)


def test_it_needs_a_mask(chelsea: Array) -> None:
    assert LAMA.requires_mask
    with pytest.raises(ControlError, match="needs a mask"):
        LAMA.run(chelsea, LAMA.ask())


def test_what_a_resize_puts_around_the_picture_is_masked_before_it_is_filled(chelsea: Array) -> None:
    job = sources.Job(width=512, height=256, base=Base(320, 768, None, 12))
    square = Picture(np.ascontiguousarray(chelsea[:256, :256]))
    around = sources.surrounded(sources.Source((square,), ResizeMode.OUTER_FIT), job).pictures[0]
    assert around.rgb.shape == (256, 512, 3)
    assert around.mask is not None
    assert (around.mask[:, :128] == 255).all()
    assert (around.mask[:, 384:] == 255).all()
    assert not around.mask[:, 128:384].any()
    assert np.array_equal(around.rgb[:, 128:384], square.rgb)
    kept = sources.Source((square,), ResizeMode.INNER_FIT)
    assert sources.surrounded(kept, job) is kept
