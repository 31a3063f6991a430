"""none, tile_resample, tile_colorfix, blur_gaussian, inpaint: exact maps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from controlstack.errors import ControlError
from controlstack.image import Array, hint
from controlstack.preprocess import find


def _run(name: str, picture: Array, **numbers: float) -> Array:
    preprocessor = find(name)
    return preprocessor.run(picture, preprocessor.ask(**numbers))


@pytest.mark.parametrize("name", ["none", "tile_colorfix", "tile_colorfix+sharp"])
def test_the_picture_is_copied(name: str, chelsea: Array):
    result = _run(name, chelsea)
    assert np.array_equal(result, chelsea)
    result[:] = 0
    assert chelsea.any()


def test_colour_fix_reads_its_sliders_for_the_job():
    sharp = find("tile_colorfix+sharp")
    asked = sharp.ask(a=12, b=0.5)
    assert (asked.a, asked.b) == (12, 0.5)
    asked = find("tile_colorfix").ask(a=99, b=0.5)
    assert (asked.a, asked.b) == (8, 0)


def test_resample_takes_area_means():
    """Halved, every pixel is the mean of a block of 2x2."""
    picture = np.random.default_rng(3).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    means = picture.reshape(3, 2, 5, 2, 3).mean(axis=(1, 3))
    result = _run("tile_resample", picture, a=2)
    assert result.shape == (3, 5, 3)
    assert np.abs(result - means).max() <= 0.5


@pytest.mark.parametrize(
    ("rate", "size"), [(1, (97, 10)), (1.09, (97, 10)), (1.1, (88, 9)), (3, (32, 3)), (8, (12, 1))]
)
def test_resample_rounds_sizes_down_and_starts_at_a_rate_of_1_1(rate: float, size: tuple[int, int]):
    picture = np.random.default_rng(4).integers(0, 256, (97, 10, 3), dtype=np.uint8)
    assert _run("tile_resample", picture, a=rate).shape == (*size, 3)


@pytest.mark.parametrize("sigma", [0.5, 9.0])
def test_blur_is_gaussian(astronaut: Array, sigma: float):
    """scipy's Gaussian, cut at 3 σ as OpenCV cuts it for eight bits; fixed-point weights cost a level."""
    expected = ndimage.gaussian_filter(
        astronaut.astype(np.float64), (sigma, sigma, 0), mode="mirror", radius=(round(3 * sigma),) * 2 + (0,)
    )
    assert np.abs(_run("blur_gaussian", astronaut, a=sigma) - expected).max() < 1.5


def test_inpaint_appends_the_mask(chelsea: Array):
    mask = np.zeros(chelsea.shape[:2], np.uint8)
    mask[100:200, 50:60] = 255
    for name in ("inpaint", "inpaint_only"):
        preprocessor = find(name)
        result = preprocessor.run(chelsea, preprocessor.ask(mask=mask))
        assert np.array_equal(result[:, :, :3], chelsea)
        assert np.array_equal(result[:, :, 3], mask)
        tensor = hint(result)[0].permute(1, 2, 0).numpy()
        assert (tensor[mask == 255] == -1).all()
        assert np.allclose(tensor[mask == 0] * 255, chelsea[mask == 0])


@pytest.mark.parametrize("name", ["inpaint", "inpaint_only"])
def test_inpaint_says_that_it_needs_a_mask(name: str, chelsea: Array):
    assert find(name).requires_mask
    with pytest.raises(ControlError, match="needs a mask"):
        _run(name, chelsea)
