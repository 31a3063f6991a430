"""canny, invert, threshold, scribble_xdog, lineart_standard: exact maps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType

import cv2
import numpy as np
import pytest
from scipy import ndimage

from controlstack.image import Array, hwc3
from controlstack.preprocess import find

Aux = Callable[[str], ModuleType]


def _run(name: str, picture: Array, **numbers: float) -> Array:
    preprocessor = find(name)
    return preprocessor.run(picture, preprocessor.ask(**numbers))


def _white_with_line(level: int, *, width: int = 1) -> Array:
    """64x64 px, white, with a vertical line in the middle."""
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[:, 32 : 32 + width] = level
    return picture


def test_canny_equals_controlnet_aux(astronaut: Array, controlnet_aux: Aux):
    theirs = controlnet_aux("canny").CannyDetector()
    for low, high in ((100, 200), (1, 255), (40, 41)):
        expected = theirs(astronaut, low_threshold=low, high_threshold=high)
        assert np.array_equal(_run("canny", astronaut, a=low, b=high), expected)


def test_canny_is_opencv_on_the_resized_picture(chelsea: Array):
    resized = cv2.resize(chelsea, (385, 256), interpolation=cv2.INTER_AREA)
    result = _run("canny", chelsea, resolution=256)
    inside = (slice(8, -8), slice(8, -8))
    assert np.array_equal(result[inside], hwc3(cv2.Canny(resized, 100, 200))[inside])


def test_canny_at_the_border_sees_the_border_go_on():
    """Its pixels repeat up to a multiple of 64 px, so no gradient is suppressed for being the last."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    continued = cv2.Canny(np.pad(noise, ((0, 28), (0, 28), (0, 0)), mode="edge"), 100, 200)[:100, :100]
    assert np.any(continued != cv2.Canny(noise, 100, 200))
    assert np.array_equal(_run("canny", noise, resolution=100), hwc3(continued))


def test_canny_draws_the_outline_of_a_square():
    """An ideal step edge has its maximal gradient at the step: one closed line of one pixel."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[16:48, 16:48] = 255
    edges = _run("canny", picture, resolution=64)[:, :, 0] == 255
    _, outlines = ndimage.label(edges, np.ones((3, 3)))
    assert outlines == 1
    assert not edges[18:46, 18:46].any()
    assert not edges[:15].any()
    assert edges[32].sum() == 2
    assert edges[:, 32].sum() == 2


def test_canny_keeps_the_edges_between_its_thresholds_only_where_they_touch_strong_ones():
    """Sobel of a step of s levels is 4·s in every channel (3x3 kernel, L1 norm): 30 is weak, 60 strong."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 30
    assert not _run("canny", picture, resolution=64, a=100, b=200).any()
    picture[32:, 32:] = 60
    assert _run("canny", picture, resolution=64, a=100, b=200)[4].any()


def test_only_canny_of_these_is_softened_in_the_hires_pass():
    assert find("canny").soft_in_hires
    assert not find("scribble_xdog").soft_in_hires


def test_invert_is_the_negative(chelsea: Array):
    assert np.array_equal(_run("invert", chelsea).astype(int) + chelsea, np.full(chelsea.shape, 255))


def test_threshold_lets_the_darkest_channel_decide():
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[0, :4] = [[128, 255, 255], [127, 255, 255], [255, 255, 127], [128, 128, 128]]
    result = _run("threshold", picture, resolution=64)
    assert result[0, :4].tolist() == [[255] * 3, [0] * 3, [0] * 3, [255] * 3]
    assert result[1:].min() == 255
    assert _run("threshold", picture, resolution=64, a=126.5)[0, :4].min() == 255
    assert not _run("threshold", picture, resolution=64, a=255).any()


@pytest.mark.parametrize("limit", [8.0, 32.0])
def test_xdog_equals_the_formula_with_another_blur(astronaut: Array, limit: float):
    """scipy's Gaussian of the same radius; near the threshold its last bits may decide otherwise."""

    def blurred(sigma: float) -> np.ndarray:
        colours = astronaut.astype(np.float64)
        return ndimage.gaussian_filter(colours, (sigma, sigma, 0), mode="mirror", truncate=4)

    darker = (blurred(5.0) - blurred(0.5)).min(axis=2)
    expected = np.where(2 * np.ceil(darker) > limit, 255, 0)
    result = _run("scribble_xdog", astronaut, a=limit)
    assert 0.02 < np.mean(result == 255) < 0.4
    assert np.mean(result == expected[:, :, None]) > 0.9999


def test_xdog_never_loses_a_line_by_making_it_darker():
    """Eight-bit arithmetic did: the doubled darkness of a strong line wrapped to 0."""
    pages = [_white_with_line(level) for level in range(255, -1, -5)]
    drawn = [_run("scribble_xdog", page, resolution=64)[32, 32, 0] for page in pages]
    assert drawn[0] == 0
    assert drawn[-1] == 255
    assert drawn == sorted(drawn)


def test_lineart_equals_controlnet_aux(astronaut: Array, controlnet_aux: Aux):
    expected = controlnet_aux("lineart_standard").LineartStandardDetector()(astronaut, output_type="np")
    assert np.array_equal(_run("lineart_standard", astronaut), expected)


def test_lineart_gives_the_median_line_level_127():
    """Lines of three strengths, equally long: the middle one is the typical one."""
    picture = np.full((192, 192, 3), 255, np.uint8)
    for column, level in ((32, 200), (96, 150), (160, 100)):
        picture[:, column] = level
    result = _run("lineart_standard", picture, resolution=192)[96, :, 0]
    assert result[96] == 127
    assert 0 < result[32] < 127 < result[160]
    assert not result[60:70].any()


@pytest.mark.parametrize("depth", [6, 12])
def test_lineart_of_a_faint_picture_stays_faint(depth: int):
    """The typical line counts as 16 levels or more; the blur at a line is 1/(6·√2π) of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = _run("lineart_standard", _white_with_line(255 - depth), resolution=64)
    darkness = depth * (1 - 1 / (6 * np.sqrt(2 * np.pi)))
    assert result.max() == int(darkness / 16 * 127)
