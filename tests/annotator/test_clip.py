"""CLIP's view of a picture: real loading, random weights, against transformers called directly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import weights

from controlstack.image import Array
from controlstack.networks import Networks
from controlstack.preprocess import Cache, Embedding, find

transformers = pytest.importorskip("transformers", exc_type=ImportError)

SIDE = 28


def network(projection: int) -> torch.nn.Module:
    """transformers' CLIPVisionModelWithProjection, small; the published ones have these 16 heads too."""
    torch.manual_seed(3)
    config = transformers.CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=16,
        image_size=SIDE,
        patch_size=14,
        projection_dim=projection,
        hidden_act="quick_gelu" if projection == 768 else "gelu",
    )
    return transformers.CLIPVisionModelWithProjection(config).eval()


def networks(name: str, folder: Path, made: torch.nn.Module) -> Networks:
    return weights.published(folder, find(name).files[0], dict(made.state_dict()))


def looked(name: str, picture: Array, with_: Networks, mask: Array | None = None) -> Embedding:
    room = find(name)
    assert room.embed is not None
    return room.embed(picture, replace(room.ask(mask=mask), networks=with_))


@pytest.mark.parametrize(
    ("name", "projection"),
    [
        ("ip-adapter_clip_h", 32),
        ("ip-adapter_clip_sdxl_plus_vith", 32),
        ("ip-adapter_clip_g", 48),
        ("revision_clipvision", 48),
        ("revision_ignore_prompt", 48),
        ("clip_vision", 768),
    ],
)
def test_it_is_transformers_network(tmp_path: Path, astronaut: Array, name: str, projection: int) -> None:
    made = network(projection)
    found = looked(name, astronaut, networks(name, tmp_path, made))
    squashed = cv2.resize(astronaut, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    processor = transformers.CLIPImageProcessorPil if hasattr(transformers, "CLIPImageProcessorPil") else None
    processor = processor or transformers.CLIPImageProcessor
    processed = processor(do_resize=False, do_center_crop=False)(squashed, return_tensors="pt")
    with torch.no_grad():
        expected = made(**processed, output_hidden_states=True)
        grey = made(torch.zeros(1, 3, SIDE, SIDE), output_hidden_states=True)
    for key, tensor in (
        ("image_embeds", expected.image_embeds),
        ("hidden_states", expected.hidden_states[-2]),
        ("last_hidden_state", expected.last_hidden_state),
        ("uncond_hidden_states", grey.hidden_states[-2]),
    ):
        torch.testing.assert_close(found[key], tensor, atol=1e-5, rtol=1e-4)
    assert (found["hidden_states"] - found["uncond_hidden_states"]).abs().mean() > 0.01


def test_what_the_mask_covers_is_not_seen(tmp_path: Path, astronaut: Array) -> None:
    with_ = networks("ip-adapter_clip_h", tmp_path, network(32))
    left = np.zeros(astronaut.shape[:2], np.uint8)
    left[:, : left.shape[1] // 2] = 255
    other = astronaut.copy()
    other[left > 0] = 255 - other[left > 0]
    one, changed = (looked("ip-adapter_clip_h", seen, with_)["image_embeds"] for seen in (astronaut, other))
    masked, both = (
        looked("ip-adapter_clip_h", seen, with_, left)["image_embeds"] for seen in (astronaut, other)
    )
    assert (one - changed).abs().mean() > 1e-3
    assert (one - masked).abs().mean() > 1e-3
    torch.testing.assert_close(masked, both, atol=0.02, rtol=0)  # the squashed edge mixes both sides


def test_embeddings_are_cached_by_picture_and_mask(tmp_path: Path, astronaut: Array) -> None:
    room = find("ip-adapter_clip_h")
    cache = Cache(networks=networks("ip-adapter_clip_h", tmp_path, network(32)))
    mask = np.full(astronaut.shape[:2], 255, np.uint8)
    first = cache.embed(room, astronaut, room.ask())
    assert cache.embed(room, astronaut.copy(), room.ask()) is first
    assert cache.embed(room, astronaut, room.ask(mask=mask)) is not first
    assert np.array_equal(cache.run(room, astronaut, room.ask()), astronaut)
