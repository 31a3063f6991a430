"""Families without files, which act beside a model, against OpenCV's filters and plain loops."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controlstack import family
from controlstack.family import Start
from controlstack.image import hint
from controlstack.joints import Call, Control, Row, RowKind, Services
from controlstack.layout import Base
from controlstack.unit import parse

HEIGHT, WIDTH = 96, 64
ROWS = (Row(0, RowKind.UNCOND), Row(0, RowKind.COND))
BASE = Base(320, 768, None, 12)
Picture = NDArray[np.uint8]


class Host:
    """A VAE that means over 8 x 8 px and repeats the first channel as the fourth."""

    def encode(self, picture: Tensor) -> Tensor:
        cells = nn.functional.avg_pool2d(picture, 8) * 2 - 1
        return torch.cat([cells, cells[:, :1]], dim=1)


def picture(seed: int, channels: int = 3) -> Picture:
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def begin(name: str, seen: Picture, *, hires: bool = False, **fields: object) -> Control:
    found = family.called(name)
    assert found is not None
    unit = parse({"module": "none", "enabled": True, **fields})
    host = cast(Services, Host())
    return found.begin(Start(nn.Identity(), found.beside(BASE), hint(seen), seen, unit, host, hires))


def call() -> Call:
    x = torch.randn(2, 4, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(1))
    return Call(x, torch.full((2,), 500.0), torch.zeros(2, 1, 8), None, ROWS)


def box(x: Tensor, reach: int) -> Tensor:
    """OpenCV's box filter with the edges continued."""
    size = (2 * reach + 1, 2 * reach + 1)
    planes = [cv2.blur(plane.numpy(), size, borderType=cv2.BORDER_REPLICATE) for row in x for plane in row]
    return torch.from_numpy(np.stack(planes)).reshape(x.shape)


@pytest.mark.parametrize("hires", [False, True])
def test_colour_fix_puts_the_pictures_coarse_colours_in_place_of_its_own(hires: bool) -> None:
    seen, x0 = picture(1), call().x
    running = begin("colour fix", seen, hires=hires, threshold_a=2, threshold_b=0)
    change = running.denoised(x0, call())
    assert change is not None
    reach = 4 if hires else 2
    own = Host().encode(torch.from_numpy(seen).permute(2, 0, 1)[None] / 255)
    expected = x0 - box(x0, reach) + box(own, reach)
    assert (expected - x0).abs().mean() > 0.1
    torch.testing.assert_close(x0 + change, expected, atol=1e-5, rtol=0)


def test_sharpness_softens_the_rows_of_the_negative_prompt_alone() -> None:
    plain, sharp = (
        begin("colour fix", picture(1), threshold_a=2, threshold_b=b).denoised(call().x, call())
        for b in (0, 50)
    )
    assert plain is not None
    assert sharp is not None
    fixed = call().x + plain
    softer = 0.5 * box(fixed, 2) + 0.5 * fixed  # a slider of 50 points is a share of one half
    assert torch.equal(sharp[1], plain[1])
    torch.testing.assert_close((call().x + sharp)[0], softer[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["colour fix", "keep unmasked"])
def test_a_weight_beyond_one_fixes_no_more_than_all(name: str) -> None:
    seen = np.dstack([picture(1), np.zeros((HEIGHT, WIDTH), np.uint8)])
    fields = {"threshold_a": 2, "threshold_b": 0}
    one, two = (begin(name, seen, weight=w, **fields).denoised(call().x, call()) for w in (1, 2))
    assert one is not None
    assert two is not None
    torch.testing.assert_close(2 * two, one)


def masked(seed: int) -> Picture:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[24:57, 16:33] = 255  # ends one pixel inside cells (7, 4)
    return np.dstack([picture(seed), mask])


def test_latents_outside_the_mask_are_the_pictures() -> None:
    seen, x0 = masked(2), call().x
    change = begin("keep unmasked", seen).denoised(x0, call())
    assert change is not None
    own = Host().encode(torch.from_numpy(seen[..., :3]).permute(2, 0, 1)[None] / 255)
    padded = np.pad(seen[..., 3], 1)
    for i in range(HEIGHT // 8):
        for j in range(WIDTH // 8):
            reached = padded[8 * i : 8 * i + 10, 8 * j : 8 * j + 10].any()
            expected = x0[:, :, i, j] if reached else own[:, :, i, j].expand(2, -1)
            torch.testing.assert_close((x0 + change)[:, :, i, j], expected, atol=1e-6, rtol=0)


def test_pixels_outside_the_mask_come_back_behind_a_soft_edge() -> None:
    seen, made = masked(2), torch.rand(3, HEIGHT, WIDTH)
    blended = begin("keep unmasked", seen).picture(made, 0)
    assert blended is not None
    own = torch.from_numpy(seen[..., :3]).permute(2, 0, 1) / 255
    soft = cv2.blur(cv2.dilate(seen[..., 3], np.ones((7, 7), np.uint8)), (7, 7)) / np.float32(255)
    expected = torch.from_numpy(soft) * made + (1 - torch.from_numpy(soft)) * own
    torch.testing.assert_close(blended, expected, atol=1e-6, rtol=0)
    assert torch.equal(blended[:, :10], own[:, :10])
    torch.testing.assert_close(blended[:, 30:50, 20:28], made[:, 30:50, 20:28])
    assert begin("keep unmasked", seen).picture(torch.rand(3, 8, 8), 0) is None


@pytest.mark.parametrize(
    ("name", "there", "channel"),
    [("recolour by lightness", cv2.COLOR_RGB2LAB, 0), ("recolour by intensity", cv2.COLOR_RGB2HSV, 2)],
)
def test_recolour_takes_the_light_of_the_map_and_keeps_the_colours(
    name: str, there: int, channel: int
) -> None:
    light = np.clip(picture(3)[..., :1].astype(int) // 2 + 64, 0, 255).astype(np.uint8).repeat(3, axis=2)
    # Colours of little chroma, which every light can have: others leave the cube of RGB and are clipped.
    made = (120 + picture(4).astype(np.float32) / 12).astype(np.uint8)
    changed = begin(name, light).picture(torch.from_numpy(made).permute(2, 0, 1) / 255, 0)
    assert changed is not None
    result = (changed.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.abs(result.astype(int) - made).mean() > 5
    split, before = (cv2.cvtColor(one, there).astype(int) for one in (result, made))
    assert np.abs(split[..., channel] - light[..., 0]).max() <= 2
    if channel == 0:
        assert np.abs(split[..., 1:] - before[..., 1:]).max() <= 3
    assert begin(name, light).picture(torch.rand(3, 8, 8), 0) is None
