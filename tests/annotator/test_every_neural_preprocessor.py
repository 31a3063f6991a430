"""What holds for every preprocessor with a network, whoever wrote it: as for the others, at smaller sizes.

The networks have random weights in the layout of the library's own class, and get them as people do: see
`weights.offered`. The tests beside this one compare their maps with the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import weights
from torch import nn

from controlstack import preprocess
from controlstack.downloads import File
from controlstack.image import Array
from controlstack.networks import Networks
from controlstack.packages import controlnet_aux
from controlstack.preprocess import Preprocessor


def _aux(module: str, name: str, *given: object, **named: object) -> Callable[[], nn.Module]:
    """A network of controlnet_aux."""
    return lambda: getattr(controlnet_aux(module), name)(*given, **named)


LAYOUT = {
    "ControlNetHED.pth": _aux("hed", "ControlNetHED_Apache2"),
    "table5_pidinet.pth": _aux("pidi.model", "pidinet"),
    "7_model.pth": _aux("teed.ted", "TED"),
    "MTEED.pth": _aux("teed.ted", "TED"),
    "sk_model.pth": _aux("lineart", "Generator", 3, 1, 3),
    "sk_model2.pth": _aux("lineart", "Generator", 3, 1, 3),
    "netG.pth": _aux("lineart_anime", "UnetGenerator", 3, 1, 8, 64, norm_layer=nn.InstanceNorm2d),
    "erika.pth": partial(weights.listed, "manga_line.txt"),
    "mlsd_large_512_fp32.pth": _aux("mlsd.models.mbv2_mlsd_large", "MobileV2_MLSD_Large"),
    "depth_anything_vitl14.pth": partial(weights.listed, "depth_anything.txt"),
    "depth_anything_v2_vits.pth": partial(weights.listed, "depth_anything.txt"),
    "depth_pro.safetensors": partial(weights.listed, "depth_pro.txt"),
    "upernet-convnext-small.bin": partial(weights.listed, "upernet.txt"),
    "UNet.pth": partial(weights.listed, "anime_face.txt"),
}
"""By the name of the file. Those of a hundred million parameters and more run in their own tests only."""

NEURAL = [p for p in preprocess.everything() if p.files and all(file.name in LAYOUT for file in p.files)]
every = pytest.mark.parametrize(
    "preprocessor", sorted(NEURAL, key=lambda p: p.files[0].name), ids=lambda p: p.name
)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Networks]:
    """Where all of them get weights from: a hub, or the folder that a sentence named."""
    pytest.importorskip("einops")
    folder = tmp_path_factory.mktemp("downloads")
    files: dict[str, File] = {file.name: file for p in NEURAL for file in p.files}
    for name, file in files.items():
        weights.published(folder, file, weights.like(LAYOUT[name]()))
    shelf = Networks(weights.Mirror(folder), "cpu")
    yield shelf
    shelf.unload()


def _run(
    p: Preprocessor, picture: Array, networks: Networks, resolution: int = 64, **numbers: float
) -> Array:
    return p.run(picture, replace(p.ask(resolution, **numbers), networks=networks))


@every
def test_draws_a_photograph_in_its_size(preprocessor: Preprocessor, networks: Networks, chelsea: Array):
    """The short side is exactly the resolution, the long side keeps the aspect ratio; nothing is touched."""
    picture = cv2.resize(chelsea, (91, 61), interpolation=cv2.INTER_AREA)
    before = picture.copy()
    result = _run(preprocessor, picture, networks)
    assert result.shape == (64, round(91 * 64 / 61), 3)
    assert result.dtype == np.uint8
    assert np.array_equal(picture, before)
    assert not np.shares_memory(result, picture)
    assert np.array_equal(_run(preprocessor, picture, networks), result)


@every
def test_takes_one_pixel_and_the_ends_of_its_sliders(preprocessor: Preprocessor, networks: Networks):
    pixel = np.full((1, 1, 3), 90, np.uint8)
    ends_a, ends_b = (
        (slider.minimum, slider.maximum) if slider else (-1,) for slider in (preprocessor.a, preprocessor.b)
    )
    for a, b in product(ends_a, ends_b):
        assert _run(preprocessor, pixel, networks, a=a, b=b).shape == (64, 64, 3)


@every
def test_the_cache_lends_its_networks_and_locks_the_map(
    preprocessor: Preprocessor, networks: Networks, chelsea: Array
):
    picture = np.ascontiguousarray(chelsea[:64, :64])
    cache = preprocess.Cache(networks=networks)
    result = cache.run(preprocessor, picture, preprocessor.ask(64))
    assert not result.flags.writeable
    assert cache.run(preprocessor, picture, preprocessor.ask(64)) is result


def test_every_one_is_compared_in_a_test_of_its_own():
    """Its file there comes from a hub, its map is held against the network called directly."""
    tests = [file.read_text("utf-8") for file in Path(__file__).parent.glob("test_*.py")]
    comparing = "".join(text for text in tests if "weights.published(" in text or "weights.offered(" in text)
    own = [p for p in preprocess.everything() if p.files]
    assert len(own) > 50
    assert not [p.name for p in own if not any(f'"{name}"' in comparing for name in (p.name, p.label))]
