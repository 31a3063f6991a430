from __future__ import annotations

import base64
import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from controlstack import image
from controlstack.errors import ControlError

RED = np.full((2, 3, 3), (255, 0, 0), np.uint8)
MASK = np.array([[0, 255, 0], [255, 0, 7]], np.uint8)


def pictures(*channels: int) -> st.SearchStrategy[np.ndarray]:
    sides = st.tuples(st.integers(1, 9), st.integers(1, 9))
    shapes = st.tuples(sides, st.sampled_from(channels)).map(lambda s: s[0] if s[1] == 1 else (*s[0], s[1]))
    return shapes.flatmap(lambda shape: hnp.arrays(np.uint8, shape))


def as_text(picture: Image.Image, kind: str = "PNG", **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def png_header(width: int, height: int) -> str:
    """A PNG without any pixels (PNG specification, 5.3 and 11.2.2)."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = (
        struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 99) + b"IDAT"
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


@given(pictures(1, 3, 4))
def test_png_round_trip(array: np.ndarray) -> None:
    assert np.array_equal(image.decode(image.encode_png(array)), array)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: "data:image/png;base64," + text,
        lambda text: "DATA:;base64,\n" + text,
        lambda text: "\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
        lambda text: text.rstrip("="),
    ],
    ids=["data-uri", "bare-data-uri", "mime-lines", "unpadded"],
)
@pytest.mark.parametrize("side", [1, 2, 3])
def test_every_way_to_write_base64(wrap, side: int) -> None:
    array = np.arange(side * 3, dtype=np.uint8).reshape(1, side, 3)
    assert np.array_equal(image.decode(wrap(image.encode_png(array))), array)


@pytest.mark.parametrize(
    ("mode", "kind", "becomes"),
    [
        ("1", "PNG", "L"),
        ("L", "JPEG", "L"),
        ("LA", "PNG", "RGBA"),
        ("P", "PNG", "RGB"),
        ("P", "GIF", "RGB"),
        ("CMYK", "JPEG", "RGB"),
        ("RGB", "BMP", "RGB"),
        ("RGB", "WEBP", "RGB"),
    ],
)
def test_other_modes_become_what_pillow_makes_of_them(mode: str, kind: str, becomes: str) -> None:
    gradient = np.arange(16 * 16 * 3, dtype=np.uint32).reshape(16, 16, 3) % 256
    text = as_text(Image.fromarray(gradient.astype(np.uint8)).convert(mode), kind)
    stored = Image.open(io.BytesIO(base64.b64decode(text)))
    assert np.array_equal(image.decode(text), np.asarray(stored.convert(becomes)))


def test_a_transparent_palette_colour_becomes_alpha() -> None:
    picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0])
    decoded = image.decode(as_text(picture, transparency=1))
    assert decoded.tolist() == [[[255, 0, 0, 255], [0, 255, 0, 0]]]


def test_16_bits_become_8() -> None:
    deep = np.array([[0, 257, 51400, 65535]], np.uint16)  # 257 times 0, 1, 200, 255
    assert image.decode(as_text(Image.fromarray(deep))).tolist() == [[0, 1, 200, 255]]


def test_exif_orientation_is_applied() -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF 2.3: row 0 is the visual right, column 0 the visual top
    assert np.array_equal(image.decode(as_text(Image.fromarray(array), exif=exif)), np.rot90(array, -1))


def test_files_and_addresses_are_never_read(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(RED).save(path)
    for text in (str(path), path.as_uri(), "https://example.com/picture.png"):
        with pytest.raises(ControlError, match=r"Send the picture itself as base64"):
            image.decode(text)


def test_files_whose_path_is_valid_base64_are_not_read_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(RED).save("abcd", "PNG")
    with pytest.raises(ControlError, match="cannot be decoded"):
        image.decode("abcd")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("%%%", "not base64"),
        ("ümlaut", "not base64"),
        ("AAAA", "cannot be decoded"),
        (as_text(Image.fromarray(RED), "EPS"), "none of PNG"),
        (as_text(Image.fromarray(RED), "TIFF"), "none of PNG"),
        (png_header(8, 8), "cannot be decoded"),
        (png_header(9000, 9000), "too large"),
        (png_header(60000, 60000), "too large"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ControlError, match=sentence):
        image.decode(text)


@given(st.data())
def test_damaged_pictures_are_refused_or_read_but_never_crash(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]))
    raw = bytearray(
        base64.b64decode(as_text(Image.fromarray(np.kron(RED, np.ones((8, 8, 1), np.uint8))), kind))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    text = base64.b64encode(bytes(raw[: data.draw(st.integers(1, len(raw)))])).decode()
    with contextlib.suppress(ControlError):
        assert image.decode(text).dtype == np.uint8


@given(pictures(4))
def test_transparency_shows_white(array: np.ndarray) -> None:
    alpha = array[:, :, 3:] / 255
    assert np.array_equal(image.hwc3(array), np.rint(array[:, :, :3] * alpha + 255 * (1 - alpha)))


@given(pictures(1))
def test_grey_becomes_three_equal_channels(array: np.ndarray) -> None:
    expected = np.dstack([array, array, array])
    assert np.array_equal(image.hwc3(array), expected)
    assert np.array_equal(image.hwc3(array[:, :, None]), expected)


@pytest.mark.parametrize(
    "array",
    [
        RED / 255,
        RED.astype(np.int64),
        RED > 0,
        RED[..., :2],
        RED[None],
        RED[0, 0],
        np.zeros((0, 3, 3), np.uint8),
    ],
    ids=["float", "int64", "bool", "two-channels", "batch", "one-dimension", "empty"],
)
def test_arrays_that_are_no_pictures_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ControlError):
        image.hwc3(array)


RED_TEXT, MASK_TEXT = image.encode_png(RED), image.encode_png(MASK)


@pytest.mark.parametrize(
    ("field", "masks"),
    [
        (None, []),
        ("", []),
        ([], []),
        (["", None], []),
        ({"image": None, "mask": ""}, []),
        (RED_TEXT, [False]),
        (RED, [False]),
        (Image.fromarray(RED), [False]),
        ({"image": RED_TEXT}, [False]),
        ({"image": RED_TEXT, "mask": None}, [False]),
        ({"image": RED, "mask": MASK_TEXT}, [True]),
        ([RED_TEXT, MASK_TEXT], [True]),
        ((RED, Image.fromarray(MASK)), [True]),
        ([RED_TEXT, ""], [False]),
        ([RED_TEXT], [False]),
        ([RED, RED_TEXT, RED], [False, False, False]),
        ([RED, "", RED], [False, False]),
        ([{"image": RED, "mask": MASK}, {"image": RED}], [True, False]),
        ([[RED, MASK], [RED, None]], [True, False]),
    ],
)
def test_every_form_of_the_image_field(field: object, masks: list[bool]) -> None:
    found = image.inputs(field)
    assert [picture.mask is not None for picture in found] == masks
    for picture in found:
        assert np.array_equal(picture.rgb, RED)
        assert picture.mask is None or np.array_equal(picture.mask, MASK)


def test_the_units_mask_serves_pictures_that_bring_none() -> None:
    other = 255 - MASK
    own, given_to_it = image.inputs([{"image": RED, "mask": MASK}, {"image": RED, "mask": ""}], other)
    assert np.array_equal(own.mask, MASK)
    assert np.array_equal(given_to_it.mask, other)


@pytest.mark.parametrize(
    ("field", "mask"),
    [(None, MASK_TEXT), ("", MASK), ({"image": "", "mask": MASK}, None), ([None, MASK], None)],
)
def test_a_mask_without_a_picture_is_refused(field: object, mask: object) -> None:
    with pytest.raises(ControlError, match="without a picture"):
        image.inputs(field, mask)


def test_a_mask_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(ControlError, match="mask is 2x3 but the picture is 3x2"):
        image.inputs(RED, MASK.T)


@pytest.mark.parametrize("field", [5, {"image": 5}, [[RED, RED, RED]], [[[RED]]], b"bytes"])
def test_other_things_are_refused(field: object) -> None:
    with pytest.raises(ControlError, match="A picture cannot be a"):
        image.inputs(field)


def test_a_units_pictures_have_a_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_UNIT_PIXELS", 2 * MASK.size)
    assert len(image.inputs([[RED, None], [RED, None]])) == 2
    with pytest.raises(ControlError, match="too many pictures"):
        image.inputs([RED, RED, RED])


def test_a_units_pictures_have_a_limit_in_number_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_UNIT_PICTURES", 2)
    assert len(image.inputs([[RED, None], [RED, None]])) == 2
    with pytest.raises(ControlError, match="too many pictures"):
        image.inputs([None, None, "no picture: it is not even looked at"])
    text = image.encode_png(RED)
    monkeypatch.setattr(image, "MAX_TEXT", len(text))
    image.inputs(text)
    with pytest.raises(ControlError, match="too large"):
        image.inputs(text + "=")


def test_an_error_says_which_picture_it_means() -> None:
    with pytest.raises(ControlError, match="The mask is not base64"):
        image.inputs(RED, "!")
    with pytest.raises(ControlError, match="A region cannot be a list"):
        image.read_mask([RED], "region")


def rgba(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([colour, colour, colour, alpha]).astype(np.uint8)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.dstack([MASK, MASK * 0, MASK * 0]), MASK),
        (rgba(MASK, np.full_like(MASK, 255)), MASK),
        (rgba(MASK, np.zeros_like(MASK)), MASK),
        (rgba(np.zeros_like(MASK), MASK), MASK),
        (rgba(np.full_like(MASK, 255), MASK), MASK),
        (rgba([[255, 255, 0]] * 2, [[255, 0, 255]] * 2), np.array([[255, 0, 0]] * 2)),
    ],
    ids=["rgb", "opaque", "fully-transparent", "black-brush", "white-brush", "painted-on-glass"],
)
def test_the_mask_is_what_was_painted(mask: np.ndarray, expected: np.ndarray) -> None:
    (picture,) = image.inputs(RED, mask)
    assert np.array_equal(picture.mask, expected)


@given(pictures(3, 4))
def test_masked_pixels_of_a_hint_are_minus_one(array: np.ndarray) -> None:
    """Expected: the inpaint condition of diffusers' ControlNet guide, `image[mask > 0.5] = -1.0`."""
    expected = array[:, :, :3].astype(np.float32) / 255
    if array.shape[2] == 4:
        expected[array[:, :, 3] / 255 > 0.5] = -1.0
    found = image.hint(array)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), expected.transpose(2, 0, 1)[None])


def test_a_mask_alone_is_read_in_any_form() -> None:
    assert image.read_mask(None) is None
    assert image.read_mask("") is None
    grey = np.array([[0, 255], [7, 0]], np.uint8)
    assert np.array_equal(image.read_mask(image.encode_png(grey)), grey)
    strokes = np.dstack([np.full((2, 2, 3), 255, np.uint8), grey])  # white paint on a transparent layer
    assert np.array_equal(image.read_mask(strokes), grey)
