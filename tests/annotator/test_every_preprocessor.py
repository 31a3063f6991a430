"""What holds for every preprocessor on the shelf that needs no weights, whoever wrote it.

Those with a network have tests of the same kind, at smaller sizes, in test_every_neural_preprocessor; only
those whose networks come with a package are here too, and skipped where that is absent.
"""

from __future__ import annotations

from base64 import b64encode
from importlib.util import find_spec
from io import BytesIO
from itertools import product

import numpy as np
import pytest
from _pytest.mark import ParameterSet
from numpy.typing import NDArray
from PIL import Image

from controlstack import image, preprocess
from controlstack.geometry import padded
from controlstack.image import Array
from controlstack.preprocess import Preprocessor

SHELF = [p for p in preprocess.everything() if not p.files]


def _tried(p: Preprocessor) -> ParameterSet:
    absent = [package for package in p.packages if find_spec(package) is None]
    skip = pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)} is not installed")
    return pytest.param(p, id=p.name, marks=skip)


every = pytest.mark.parametrize("preprocessor", [_tried(p) for p in SHELF])
every_resizing = pytest.mark.parametrize("preprocessor", [_tried(p) for p in SHELF if p.resolution])

# Those whose map is the picture itself while their sliders stand at the default.
UNCHANGED = {"none", "ip-adapter-auto", "inpaint", "inpaint_only"}
UNCHANGED |= {"reference_only", "reference_adain", "reference_adain+attn", "style_align"}
UNCHANGED |= {"tile_resample", "tile_colorfix", "tile_colorfix+sharp"}


def _run(preprocessor: Preprocessor, picture: Array, **numbers: float) -> Array:
    """One run as a job makes it; a mask for those that take one, and a seed."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[: len(mask) // 2] = 255
    return preprocessor.run(picture, preprocessor.ask(mask=mask, seed=7, **numbers))


def _is_map(result: Array) -> bool:
    return result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] in (3, 4) and result.size > 0


def _noise(h: int, w: int) -> Array:
    return np.random.default_rng(h * 10000 + w).integers(0, 256, (h, w, 3), dtype=np.uint8)


def test_labels_and_names_find_one_preprocessor_each():
    for p in SHELF:
        assert preprocess.find(p.name) is p
        assert preprocess.find(p.label) is p


@every
def test_draws_a_photograph(preprocessor: Preprocessor, astronaut: Array):
    before = astronaut.copy()
    result = _run(preprocessor, astronaut)
    assert _is_map(result)
    assert len(np.unique(result)) > 1
    assert np.array_equal(astronaut, before)
    assert not np.shares_memory(result, astronaut)
    assert np.array_equal(_run(preprocessor, astronaut), result)
    assert result.shape[:2] == (512, 512)
    unchanged = np.array_equal(result[:, :, :3], astronaut)
    assert unchanged == (preprocessor.name in UNCHANGED)


@every
@pytest.mark.parametrize(("h", "w"), [(300, 451), (65, 63), (97, 512), (200, 8), (1, 1)])
def test_takes_any_size(preprocessor: Preprocessor, h: int, w: int):
    """With a resolution the short side is exactly that, and the long side keeps the aspect ratio."""
    result = _run(preprocessor, _noise(h, w), resolution=200)
    assert _is_map(result)
    if preprocessor.resolution:
        assert result.shape[:2] == (round(h * 200 / min(h, w)), round(w * 200 / min(h, w)))


SENT = {
    "grey": (1, np.uint8),
    "grey and alpha": (2, np.uint8),
    "alpha": (4, np.uint8),
    "16 bits": (1, np.uint16),
}


@every
@pytest.mark.parametrize("kind", SENT)
def test_takes_what_people_send(preprocessor: Preprocessor, kind: str):
    """It is read as a unit's picture is, and gives a map of the same size."""
    channels, dtype = SENT[kind]
    rows, columns = np.indices((40, 56))
    sent = np.stack([rows * columns * 4**n for n in range(channels)], axis=2).squeeze().astype(dtype)
    (read,) = image.inputs(_png(sent))
    result = _run(preprocessor, read.rgb, resolution=64)
    assert _is_map(result)
    assert result.shape[:2] == _size(preprocessor, 40, 56)


def _size(p: Preprocessor, h: int, w: int) -> tuple[int, int]:
    """Of the map of a picture, asked for in 64 px; shuffle's has 512 always."""
    short = 512 if p.name == "shuffle" else 64 if p.resolution else min(h, w)
    return round(h * short / min(h, w)), round(w * short / min(h, w))


def _png(array: NDArray[np.generic]) -> str:
    file = BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def large() -> Array:
    """A picture of 8k, 7680x4320 px."""
    return np.tile(_noise(432, 512), (10, 15, 1))


@every
def test_takes_a_picture_of_8k(preprocessor: Preprocessor, large: Array):
    """Those that work on the picture as it is get a strip of it, for the time it takes."""
    picture = large[:16] if _size(preprocessor, *large.shape[:2]) == large.shape[:2] else large
    result = _run(preprocessor, picture, resolution=64)
    assert _is_map(result)
    assert result.shape[:2] == _size(preprocessor, *picture.shape[:2])


@every
@pytest.mark.parametrize("level", [0, 127, 255])
def test_draws_a_flat_picture_flat(preprocessor: Preprocessor, level: int):
    """A picture of 8x8 px in one colour has no detail that anything could find."""
    result = _run(preprocessor, np.full((8, 8, 3), level, np.uint8), resolution=64)
    assert _is_map(result)
    assert len(np.unique(result[:, :, :3].reshape(-1, 3), axis=0)) == 1


@every
def test_takes_the_ends_of_its_sliders(preprocessor: Preprocessor):
    picture = _noise(40, 56)
    ends_a, ends_b = (
        (slider.minimum, slider.maximum) if slider else (-1,) for slider in (preprocessor.a, preprocessor.b)
    )
    for a, b in product(ends_a, ends_b):
        assert _is_map(_run(preprocessor, picture, resolution=64, a=a, b=b))


@every_resizing
def test_takes_the_ends_of_its_resolution(preprocessor: Preprocessor):
    assert preprocessor.resolution
    for resolution in (preprocessor.resolution.minimum, preprocessor.resolution.maximum):
        assert min(_run(preprocessor, _noise(8, 8), resolution=resolution).shape[:2]) == resolution


@every
def test_what_has_no_slider_changes_nothing(preprocessor: Preprocessor):
    numbers = {"resolution": 320.0, "a": 3.0, "b": 2.0}
    silent = {name: value for name, value in numbers.items() if getattr(preprocessor, name) is None}
    picture = _noise(48, 40)
    assert np.array_equal(_run(preprocessor, picture, **silent), _run(preprocessor, picture))


@every_resizing
def test_a_resolution_that_is_declared_does_something(preprocessor: Preprocessor, chelsea: Array):
    small, large = (_run(preprocessor, chelsea, resolution=resolution) for resolution in (128, 256))
    assert small.shape != large.shape


@every
def test_only_the_seeded_depend_on_the_seed(preprocessor: Preprocessor, astronaut: Array):
    picture = padded(astronaut, 128)[0]
    mask = np.zeros(picture.shape[:2], np.uint8)
    one, other = (preprocessor.run(picture, preprocessor.ask(128, mask=mask, seed=seed)) for seed in (1, 2))
    assert np.array_equal(one, other) != preprocessor.seeded


@every
def test_the_cache_may_lock_its_result(preprocessor: Preprocessor, astronaut: Array):
    picture = padded(astronaut, 64)[0]
    ask = preprocessor.ask(64, mask=picture[:, :, 0].copy())
    result = preprocess.Cache().run(preprocessor, picture, ask)
    assert not result.flags.writeable
    assert picture.flags.writeable
