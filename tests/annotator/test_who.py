"""PuLID's preprocessor: EVA-CLIP against its authors' code, facexlib's BiSeNet, and the whole of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import test_faces
import torch
import weights
from torch import Tensor
from torch.nn.functional import normalize

from controlstack import preprocess
from controlstack.annotator.identity import pulid
from controlstack.embeddings import EVA, EVA_LAYERS, RAW_FACE
from controlstack.face_analysis import ANTELOPE, largest
from controlstack.image import Array
from controlstack.networks import Networks
from controlstack.packages import alone

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "eva_clip.json").read_text("utf-8"))
WIDTH, BLOCKS, PATCH, SIDE, KNOWN = 128, 22, 14, 42, 16


def wave(*shape: int, seed: int) -> Tensor:
    fan = shape[-1] if len(shape) < 2 else math.prod(shape[1:])
    at = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(at * (1.7 + 0.013 * seed) + seed) * 1.5 / math.sqrt(fan)).float().reshape(shape)


def eva_clip() -> dict[str, Tensor]:
    """A tiny one under the names of the published file; `eva_clip.json` says which."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, (SIDE // PATCH) ** 2 + 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (KNOWN, WIDTH),
        "head.bias": (KNOWN,),
    }
    for n in range(BLOCKS):
        block = f"blocks.{n}"
        for name in ("norm1", "norm2", "attn.inner_attn_ln"):
            shapes |= {f"{block}.{name}.weight": (WIDTH,), f"{block}.{name}.bias": (WIDTH,)}
        shapes |= {f"{block}.attn.{name}_bias": (WIDTH,) for name in "qv"}
        shapes |= {f"{block}.attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkv"}
        shapes |= {f"{block}.attn.proj.weight": (WIDTH, WIDTH), f"{block}.attn.proj.bias": (WIDTH,)}
        for name, size in (
            ("w1", (2 * WIDTH, WIDTH)),
            ("w2", (2 * WIDTH, WIDTH)),
            ("w3", (WIDTH, 2 * WIDTH)),
        ):
            shapes |= {f"{block}.mlp.{name}.weight": size, f"{block}.mlp.{name}.bias": size[:1]}
        shapes |= {f"{block}.mlp.ffn_ln.{what}": (2 * WIDTH,) for what in ("weight", "bias")}
    state = {}
    for seed, name in enumerate(sorted(shapes)):
        norm = name.endswith("weight") and len(shapes[name]) == 1
        state[f"visual.{name}"] = wave(*shapes[name], seed=seed) + float(norm)
    # What the rest of the published file holds, and what the network makes itself.
    return state | {"logit_scale": torch.ones(()), "visual.rope.freqs_cos": torch.ones(9, 64)}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    pytest.importorskip("timm", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("models")
    weights.offered(folder, ANTELOPE.detector, test_faces.detector)
    weights.offered(folder, ANTELOPE.recogniser, test_faces.recogniser)
    weights.published(folder, pulid.SEEN, eva_clip())
    return Networks(weights.Mirror(folder), "cpu", bound=6)


def test_eva_clip_is_the_authors(networks: Networks) -> None:
    network: Any = networks.get(pulid.SEEN, pulid._eva)
    seen: list[Tensor] = []
    hooks = [
        network.blocks[n].register_forward_pre_hook(lambda _, x: seen.append(x[0])) for n in pulid.DEPTHS
    ]
    with torch.no_grad():
        whole = network(40 * wave(1, 3, SIDE, SIDE, seed=900))
    for hook in hooks:
        hook.remove()
    depths = torch.stack(seen, dim=1)[..., :8]
    assert depths.shape == (1, 5, 10, 8)
    torch.testing.assert_close(whole, torch.tensor(PUBLISHED["whole"])[None], atol=2e-4, rtol=1e-4)
    expected = torch.tensor(PUBLISHED["hidden"]).reshape(depths.shape)
    torch.testing.assert_close(depths, expected, atol=2e-4, rtol=1e-4)


def test_eva_clip_sees_the_picture_at_its_size(networks: Networks, astronaut: Array) -> None:
    """PIL's bicubic filter, CLIP's mean and spread."""
    from PIL import Image

    ask = preprocess.Ask(networks=networks)
    whole, depths = pulid.look(astronaut, ask)
    small = np.asarray(Image.fromarray(astronaut).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    mean, spread = (np.array(one, np.float32) for one in pulid.CLIP_MEANS)
    network: Any = networks.get(pulid.SEEN, pulid._eva)
    given = torch.from_numpy((small / 255 - mean) / spread).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = network(given)
    assert depths.shape == (1, 5, 10, WIDTH)
    assert torch.nn.functional.cosine_similarity(whole, expected) > 0.999


@pytest.fixture
def bisenet(networks: Networks) -> torch.nn.Module:
    if find_spec("facexlib") is None:
        pytest.skip("facexlib is not installed")
    made = alone("facexlib", "parsing.bisenet").BiSeNet(num_class=19)
    weights.published(networks.store.folders[0], pulid.PARTS, weights.like(made, seed=3))
    made.load_state_dict(weights.like(made, seed=3))
    return made.eval()


def test_the_face_alone_is_grey_on_white(networks: Networks, bisenet: torch.nn.Module) -> None:
    """facexlib's align_warp_face and PuLID's parsing, on the face that the tiny detector sees."""
    picture = test_faces.photograph((200, 80))
    map_ = pulid.face_alone(picture, preprocess.Ask(networks=networks))
    points = largest(picture, ANTELOPE, networks).points
    turn = cv2.estimateAffinePartial2D(points, pulid.UPRIGHT, method=cv2.LMEDS)[0]
    upright = cv2.warpAffine(picture, turn, (512, 512), borderValue=(132, 133, 135))
    rgb = torch.from_numpy(upright).permute(2, 0, 1)[None] / 255
    mean, spread = (torch.tensor(one)[:, None, None] for one in pulid.MEANS)
    with torch.no_grad():
        labels = bisenet((rgb - mean) / spread)[0].argmax(1)
    white = sum(labels == n for n in (0, 16, 18, 7, 8, 9, 14, 15)).bool()
    grey = 255 * (0.299 * rgb[:, 0] + 0.587 * rgb[:, 1] + 0.114 * rgb[:, 2])
    expected = torch.where(white, 255.0, grey)[0].numpy()
    assert 0.1 < white.float().mean() < 0.9
    assert map_.shape == (512, 512, 3)
    np.testing.assert_allclose(map_[..., 1], expected, atol=0.51)


def test_everything_that_pulid_reads(networks: Networks, bisenet: torch.nn.Module) -> None:
    room = preprocess.find("ip-adapter_pulid")
    assert room.embed is not None
    picture = test_faces.photograph((200, 80))
    ask = replace(room.ask(), networks=networks)
    found = room.embed(picture, ask)
    whole, depths = pulid.look(pulid.face_alone(picture, ask), ask)
    torch.testing.assert_close(found[EVA], normalize(whole))
    assert torch.equal(found[EVA_LAYERS], depths)
    assert found[RAW_FACE].shape == (1, 512)
    assert np.array_equal(room.run(picture, ask), preprocess.find("facexlib").run(picture, ask))
