from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from controlstack import geometry
from controlstack.geometry import Box
from controlstack.unit import ResizeMode

sides = st.integers(1, 40)
cells = st.integers(1, 256).map(lambda n: n * 8)
modes = st.sampled_from(list(ResizeMode))


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def white_on_black(grey: np.ndarray) -> np.ndarray:
    return np.dstack([grey, grey, grey])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(ResizeMode.OUTER_FIT, 683), (ResizeMode.INNER_FIT, 1024), (ResizeMode.RESIZE, 1024)],
)
def test_pixel_perfect_resolution_of_a_portrait_for_a_square(mode: ResizeMode, expected: int) -> None:
    assert geometry.pixel_perfect_resolution(768, 512, 1024, 1024, mode) == expected


@given(
    st.integers(64, 400),
    st.integers(64, 400),
    cells,
    cells,
    st.sampled_from([ResizeMode.INNER_FIT, ResizeMode.OUTER_FIT]),
)
def test_a_pixel_perfect_map_needs_no_scaling(
    h: int, w: int, height: int, width: int, mode: ResizeMode
) -> None:
    resolution = geometry.pixel_perfect_resolution(h, w, height, width, mode)
    scale = resolution / min(h, w)
    fitted = scale * h / height, scale * w / width
    tolerance = 0.51 / min(h, w) * max(h / height, w / width)
    assert (max if mode is ResizeMode.OUTER_FIT else min)(fitted) == pytest.approx(1, abs=tolerance)


@given(sides, sides, st.integers(1, 150), st.sampled_from([3, 4]))
def test_padding_is_undone_by_its_slices(h: int, w: int, resolution: int, channels: int) -> None:
    picture = noise(h, w, channels)
    result, crop = geometry.padded(picture, resolution)
    assert result.shape[0] % 64 == 0
    assert result.shape[1] % 64 == 0
    inner = result[crop]
    assert min(inner.shape[:2]) == resolution
    long_side = round(max(h, w) * (resolution / min(h, w)))
    assert inner.shape[:2] == ((resolution, long_side) if h < w else (long_side, resolution))
    method = cv2.INTER_CUBIC if resolution > min(h, w) else cv2.INTER_AREA
    assert np.array_equal(inner, cv2.resize(picture, inner.shape[1::-1], interpolation=method))
    pad = ((0, result.shape[0] - inner.shape[0]), (0, result.shape[1] - inner.shape[1]), (0, 0))
    assert np.array_equal(result, np.pad(inner, pad, mode="edge"))


@given(st.tuples(sides, sides, st.sampled_from([3, 4])), sides, sides, modes)
def test_a_fitted_map_has_the_asked_size(shape, height: int, width: int, mode: ResizeMode) -> None:
    picture = noise(*shape)
    before = picture.copy()
    picture.setflags(write=False)
    assert geometry.fit(picture, width, height, mode).shape == (height, width, shape[2])
    assert np.array_equal(picture, before)


@given(sides, sides, modes)
def test_a_map_that_fits_is_left_alone(h: int, w: int, mode: ResizeMode) -> None:
    picture = noise(h, w)
    assert np.array_equal(geometry.fit(picture, w, h, mode), picture)


def test_inner_fit_cuts_around_the_centre() -> None:
    picture = noise(4, 9)
    assert np.array_equal(geometry.fit(picture, 4, 4, ResizeMode.INNER_FIT), picture[:, 2:6])
    assert np.array_equal(geometry.fit(picture[:, :4], 4, 3, ResizeMode.INNER_FIT), picture[:3, :4])


def test_outer_fit_surrounds_with_the_median_of_the_border_and_a_mask() -> None:
    """Border lines by hand: of 4+4+3+3 pixels 4 are black and 10 grey, so their median is grey."""
    picture = np.full((3, 4, 4), (90, 100, 110, 0), np.uint8)
    picture[0] = 0
    fitted = geometry.fit(picture, 4, 8, ResizeMode.OUTER_FIT)
    assert np.array_equal(fitted[2:5], picture)
    assert (fitted[[0, 1, 5, 6, 7]] == (90, 100, 110, 255)).all()


@given(st.integers(3, 199), st.integers(0, 2), st.integers(2, 60), st.integers(2, 60))
def test_segments_get_no_new_colours(count: int, channel: int, width: int, height: int) -> None:
    palette = np.zeros((count, 3), np.uint8)
    palette[:, channel] = np.linspace(0, 255, count)
    picture = palette[np.arange(15 * 15) % count].reshape(15, 15, 3)
    found = geometry.fit(picture, width, height, ResizeMode.RESIZE)
    assert {tuple(c) for c in found.reshape(-1, 3)} <= {tuple(c) for c in palette}


@pytest.mark.parametrize(("size", "method"), [((30, 20), cv2.INTER_AREA), ((90, 50), cv2.INTER_CUBIC)])
def test_photographs_are_resized_smoothly(size: tuple[int, int], method: int) -> None:
    picture = noise(40, 60)
    assert np.array_equal(
        geometry.resize_keeping_edges(picture, *size), cv2.resize(picture, size, interpolation=method)
    )


def line_drawing() -> np.ndarray:
    """Three shapes of one pixel's width: a circle, a slanted line, an angle."""
    canvas = np.zeros((96, 128), np.uint8)
    cv2.circle(canvas, (40, 45), 30, 255)
    cv2.line(canvas, (80, 10), (120, 60), 255)
    cv2.polylines(canvas, [np.array([(75, 60), (90, 85), (122, 85)])], False, 255)
    return canvas


@pytest.mark.parametrize("scale", [0.75, 1.5, 2, 2.5])
def test_lines_stay_white_whole_and_one_pixel_wide(scale: float) -> None:
    drawing = line_drawing()
    height, width = round(96 * scale), round(128 * scale)
    found = geometry.resize_keeping_edges(white_on_black(drawing), width, height)
    lines = np.ascontiguousarray(found[:, :, 0])
    assert np.array_equal(found, white_on_black(lines))
    assert set(np.unique(lines)) == {0, 255}
    assert not cv2.erode(lines, np.ones((2, 2), np.uint8), borderValue=0).any()
    assert cv2.connectedComponents(lines)[0] == cv2.connectedComponents(drawing)[0] == 4
    flooded = cv2.floodFill(lines.copy(), None, (round(40 * scale), round(45 * scale)), 99, flags=4)[1]
    assert flooded[0, 0] == 0, "the circle is closed"
    assert (flooded == 99).sum() == pytest.approx(np.pi * (30 * scale) ** 2, rel=0.1)


@pytest.mark.parametrize(("scale", "shapes"), [(0.75, 4), (2, 3)])
def test_specks_and_spurs_are_pruned_only_when_enlarging(scale: float, shapes: int) -> None:
    drawing = line_drawing()
    drawing[8, 8] = 255
    found = geometry.resize_keeping_edges(white_on_black(drawing), round(128 * scale), round(96 * scale))
    assert cv2.connectedComponents(np.ascontiguousarray(found[:, :, 0]))[0] == 1 + shapes


@given(st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(lambda s: hnp.arrays(np.uint8, s)))
def test_ridges_are_maxima_along_a_line_through_the_pixel(grey: np.ndarray) -> None:
    """Expected: the definition, pixel by pixel."""
    around = np.pad(grey.astype(int), 1, constant_values=-1)
    expected = np.zeros_like(grey)
    for (y, x), value in np.ndenumerate(grey):
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            if value >= max(around[y + 1 + dy, x + 1 + dx], around[y + 1 - dy, x + 1 - dx]):
                expected[y, x] = value
    assert np.array_equal(geometry._ridges(grey), expected)


@pytest.mark.parametrize("size", [50, 130])
def test_lines_along_the_edge_of_the_picture_survive(size: int) -> None:
    frame = np.zeros((64, 64), np.uint8)
    cv2.rectangle(frame, (0, 0), (63, 63), 255)
    lines = geometry.resize_keeping_edges(white_on_black(frame), size, size)[:, :, 0] > 0
    for edge in (lines[:4], lines[-4:], lines[:, :4].T, lines[:, -4:].T):
        assert edge.any(axis=0).mean() > 0.9


@pytest.mark.parametrize("size", [40, 200])
def test_wide_strokes_stay_wide_and_sharp(size: int) -> None:
    disc = np.zeros((80, 80), np.uint8)
    cv2.circle(disc, (40, 40), 25, 255, cv2.FILLED)
    found = geometry.resize_keeping_edges(white_on_black(disc), size, size)
    assert set(np.unique(found)) == {0, 255}
    assert (found > 0).mean() == pytest.approx((disc > 0).mean(), rel=0.05)


@pytest.mark.parametrize(("size", "method"), [((6, 7), cv2.INTER_AREA), ((37, 23), cv2.INTER_CUBIC)])
def test_an_inpaint_mask_is_resized_and_cut_at_half(size: tuple[int, int], method: int) -> None:
    picture = noise(20, 20, 4)
    grey = cv2.resize(picture[:, :, 3], size, interpolation=method)
    found = geometry.resize_keeping_edges(picture, *size)
    assert np.array_equal(found[:, :, 3], 255 * (grey >= 128))


@given(sides, sides, st.integers(0, 9), st.lists(st.tuples(sides, sides), max_size=4))
def test_the_crop_region_bounds_the_mask(h: int, w: int, padding: int, points: list[tuple[int, int]]) -> None:
    """Expected: Pillow's getbbox."""
    mask = np.zeros((h, w), np.uint8)
    for y, x in points:
        mask[y % h, x % w] = 1
    bounds = Image.fromarray(mask).getbbox()
    found = geometry.crop_region(mask, padding)
    if bounds is None:
        assert found is None
    else:
        left, top, right, bottom = bounds
        grown = (
            max(left - padding, 0),
            max(top - padding, 0),
            min(right + padding, w),
            min(bottom + padding, h),
        )
        assert found == grown


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        (Box(100, 100, 228, 132), (512, 512), Box(100, 52, 228, 180)),
        (Box(100, 100, 132, 131), (512, 512), Box(100, 100, 132, 132)),
        (Box(0, 0, 128, 32), (512, 512), Box(0, 0, 128, 128)),
        (Box(380, 200, 400, 300), (1024, 512), Box(200, 200, 400, 300)),
        (Box(0, 10, 400, 20), (64, 512), Box(0, 0, 400, 300)),
        (Box(100, 100, 251, 110), (1536, 1024), Box(100, 55, 251, 155)),
    ],
    ids=[
        "centred",
        "odd-pixel-below",
        "pushed-down",
        "pushed-left",
        "as-far-as-the-picture-goes",
        "rounded-down",  # 151 / 1.5 = 100.7
    ],
)
def test_expanding_to_the_aspect_ratio(box: Box, size: tuple[int, int], expected: Box) -> None:
    """Worked by hand in a picture of 400x300."""
    assert geometry.expand_to_aspect(box, *size, 400, 300) == expected


@given(st.lists(sides, min_size=3, max_size=3), st.lists(sides, min_size=3, max_size=3), cells, cells)
def test_the_expanded_box_has_the_aspect_ratio_or_fills_the_picture(x, y, width: int, height: int) -> None:
    image_w, image_h = sum(x), sum(y)
    box = Box(x[0], y[0], x[0] + x[1], y[0] + y[1])
    left, top, right, bottom = geometry.expand_to_aspect(box, width, height, image_w, image_h)
    assert 0 <= left <= box.left < box.right <= right <= image_w
    assert 0 <= top <= box.top < box.bottom <= bottom <= image_h
    grown_w, grown_h = right - left, bottom - top
    is_right = abs(grown_w - grown_h * width / height) <= 1 or abs(grown_h - grown_w * height / width) <= 1
    assert is_right or grown_w == image_w or grown_h == image_h


@given(sides, sides, sides, sides)
def test_a_stretched_photograph_is_pillows_lanczos(h: int, w: int, height: int, width: int) -> None:
    picture = noise(h, w)
    expected = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
    assert np.array_equal(geometry.resample(picture, width, height, ResizeMode.RESIZE), np.asarray(expected))


@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 8), st.integers(1, 8), st.integers(1, 4))
def test_a_fitted_photograph_keeps_its_aspect_ratio(h, w, rows: int, columns: int, count: int) -> None:
    """Sizes round down and centre by halves, as in A1111's resize_image; the pixels are Pillow's."""
    height, width = 8 * rows, 8 * columns
    picture = noise(h, w, count)
    for mode, grows in ((ResizeMode.INNER_FIT, max), (ResizeMode.OUTER_FIT, min)):
        found = geometry.resample(picture, width, height, mode)
        assert found.shape == (height, width, count)
        scaled_w, scaled_h = grows((width, h * width // w), (w * height // h, height))
        assume(scaled_w and scaled_h)
        channels = [Image.fromarray(channel) for channel in picture.transpose(2, 0, 1)]
        scaled = np.dstack([c.resize((scaled_w, scaled_h), Image.Resampling.LANCZOS) for c in channels])
        top, left = height // 2 - scaled_h // 2, width // 2 - scaled_w // 2
        if mode is ResizeMode.INNER_FIT:
            assert np.array_equal(found, scaled[-top : height - top, -left : width - left])
        else:
            pad = ((top, height - scaled_h - top), (left, width - scaled_w - left), (0, 0))
            assert np.array_equal(found, np.pad(scaled, pad, mode="edge"))


@given(st.data())
def test_control_and_init_image_show_the_same_rectangle(data: st.DataObject) -> None:
    """Every pixel of the init image holds its own coordinates; a control picture of twice its size agrees."""
    image_w, image_h = data.draw(st.integers(40, 60)), data.draw(st.integers(40, 60))
    mask = np.zeros((image_h, image_w), np.uint8)
    mask[data.draw(st.integers(8, image_h - 9)), data.draw(st.integers(8, image_w - 9))] = 255
    region = geometry.crop_region(mask, data.draw(st.integers(4, 32)))
    assert region is not None
    box = geometry.expand_to_aspect(region, 64, 64, image_w, image_h)
    y, x = np.mgrid[:image_h, :image_w]
    init = np.dstack([4 * x, 4 * y, 0 * x]).astype(np.uint8)
    control = init.repeat(2, axis=0).repeat(2, axis=1)

    at_init_size = geometry.resample(control, image_w, image_h, ResizeMode.INNER_FIT)
    found = geometry.crop(at_init_size, box, 64, 64)

    width, height = box.right - box.left, box.bottom - box.top
    shown = Image.fromarray(init).crop(box).resize((64, 64), Image.Resampling.LANCZOS)
    assume(width == height)
    assert np.abs(found.astype(int) - np.asarray(shown)).max() <= 2
