"""color, recolor_luminance, recolor_intensity, shuffle: exact maps."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from types import ModuleType

import cv2
import numpy as np
import pytest
import skimage.color

from controlstack.image import Array
from controlstack.preprocess import find


def _run(name: str, picture: Array, *, seed: int = 0, **numbers: float) -> Array:
    preprocessor = find(name)
    return preprocessor.run(picture, preprocessor.ask(seed=seed, **numbers))


def _is_grey(picture: Array) -> bool:
    return bool((picture == picture[:, :, :1]).all())


def test_colour_grid_of_a_grid_is_that_grid():
    """Cubic sampling at a cell's centre reaches 2 px to each side, so cells of one colour keep it."""
    cells = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    picture = cells.repeat(64, axis=0).repeat(64, axis=1)
    assert np.array_equal(_run("color", picture, resolution=128), picture)


def test_colour_grid_halves_by_means_and_samples_cells_by_cubic_convolution():
    """A cell's centre lies between pixels; there Keys' kernel with a = -3/4 is -3, 19, 19, -3 (/32)."""
    noise = np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    halved = np.rint(noise.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3)))
    weights = np.zeros((2, 128))
    weights[0, 30:34] = weights[1, 94:98] = np.array([-3, 19, 19, -3]) / 32
    expected = np.einsum("ih,jw,hwc->ijc", weights, weights, halved).clip(0, 255)
    result = _run("color", noise, resolution=128)[::64, ::64]
    assert np.abs(result - expected).max() < 1.5


def test_colour_grid_has_as_many_cells_as_fit(chelsea: Array):
    """300x451 at 128 is 128x192; at 100 it is 100x150: one row of two cells, 75 px wide."""
    for resolution, rows, columns in ((128, 2, 3), (100, 1, 2)):
        result = _run("color", chelsea, resolution=resolution)
        height, width = result.shape[:2]
        cells = result[:: height // rows, :: width // columns]
        assert cells.shape[:2] == (rows, columns)
        assert np.array_equal(cells.repeat(height // rows, axis=0).repeat(width // columns, axis=1), result)
        assert len(np.unique(cells.reshape(-1, 3), axis=0)) == rows * columns


def test_luminance_is_lightness_of_cielab(chelsea: Array):
    """scikit-image computes L* (0..100) on its own; OpenCV's eight-bit L may be one level off."""
    lightness = skimage.color.rgb2lab(chelsea)[:, :, 0] * 2.55
    result = _run("recolor_luminance", chelsea)
    assert _is_grey(result)
    assert np.abs(result[:, :, 0] - lightness).max() <= 1.5


def test_luminance_takes_red_for_red():
    """L* of the sRGB primaries is 53.24, 87.74 and 32.30 (IEC 61966-2-1, D65): swapped channels show."""
    picture = np.eye(3, dtype=np.uint8)[None] * 255
    assert _run("recolor_luminance", picture)[0, :, 0].tolist() == [136, 224, 82]


def test_intensity_is_value_of_hsv(chelsea: Array):
    picture = chelsea[::16, ::16]
    expected = [[255 * colorsys.rgb_to_hsv(*(pixel / 255))[2] for pixel in row] for row in picture]
    result = _run("recolor_intensity", picture)
    assert _is_grey(result)
    assert np.allclose(result[:, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["recolor_luminance", "recolor_intensity"])
@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
def test_gamma_is_a_power_of_the_level(name: str, gamma: float):
    """On a grey ramp both start from a level per grey; 255·(x/255)^γ, rounded down."""
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    level = _run(name, ramp)[0, :, 0].astype(float)
    result = _run(name, ramp, a=gamma)[0, :, 0]
    below = 255 * (level / 255) ** gamma - result
    assert -1e-4 < below.min() <= below.max() < 1
    assert result[0] == 0
    assert result[-1] == 255


def test_shuffle_equals_controlnet_aux(astronaut: Array, controlnet_aux: Callable[[str], ModuleType]):
    """It draws from numpy's global generator, seeded here as the incumbent seeds it."""
    theirs = controlnet_aux("shuffle").ContentShuffleDetector()
    wide = np.hstack([astronaut, astronaut[:, :256]])
    for picture, seed in ((astronaut, 0), (astronaut, 123), (wide, 2**32 - 1)):
        np.random.seed(seed)  # noqa: NPY002
        assert np.array_equal(_run("shuffle", picture, seed=seed), theirs(picture, output_type="np"))


def test_shuffle_reaches_every_column_and_row():
    """The noise spans 0..1, so both ends of a ramp are there: x in red, y in green."""
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    picture = np.dstack([*np.meshgrid(ramp, ramp), np.zeros((512, 512), np.uint8)])
    red, green, blue = np.moveaxis(_run("shuffle", picture, seed=5), 2, 0)
    assert (red.min(), red.max(), green.min(), green.max(), blue.max()) == (0, 255, 0, 255, 0)
    assert np.abs(np.diff(red.astype(int), axis=0)).max() < 16


def test_shuffle_depends_on_the_seed_alone(astronaut: Array):
    np.random.seed(1)  # noqa: NPY002
    once = _run("shuffle", astronaut, seed=9)
    assert np.random.get_state()[2] == 624  # noqa: NPY002  the global generator has drawn nothing
    assert np.array_equal(_run("shuffle", astronaut, seed=9), once)
    assert np.array_equal(_run("shuffle", astronaut, seed=9 + 2**32), once)
    assert not np.array_equal(_run("shuffle", astronaut, seed=10), once)


def test_shuffle_is_made_at_512_px(chelsea: Array):
    """From 300x451 px: the short side grows to 512, the long side with it."""
    assert _run("shuffle", chelsea).shape == (512, round(451 * 512 / 300), 3)
    enlarged = cv2.resize(chelsea, (770, 512), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(_run("shuffle", chelsea), _run("shuffle", enlarged))
