"""Families that read embeddings in a running host: ready ones over HTTP, seen in the picture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
from control_server import RANDOM_BASE, Host, difference, job, serving

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))

from stage import SETS, picture

from controlstack import embeddings

nets.LAYOUTS["random base"] = RANDOM_BASE
KINDS = ("IP-Adapter", "FaceID", "FaceID-plus", "FaceID portrait", "PuLID", "T2I style adapter")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    models = folder / "models" / "ControlNet"
    models.mkdir(parents=True)
    for kind in KINDS:
        nets.save(models / f"{kind}.safetensors", SETS[kind].tensors("random base", 0))
    with serving(folder) as serves:
        yield serves


def unit(kind: str, seed: int = 0, **fields: Any) -> dict[str, Any]:
    """As webuiapi's users send what /controlnet/detect has answered: base64, no picture, no preprocessor."""
    ready = embeddings.write(SETS[kind].PREPROCESSOR.embed(picture(seed), None))
    return {"model": kind, "ipadapter_input": [ready], "weight": 2, **fields}


@pytest.mark.parametrize("kind", KINDS)
def test_ready_embeddings_show_in_the_picture_and_leave_nothing(host: Host, kind: str) -> None:
    plain = host.pictures()[0]
    (one,) = host.pictures(unit(kind))
    (other,) = host.pictures(unit(kind, seed=1))
    assert difference(one, plain) >= 0.5
    assert difference(one, other) >= 0.5
    assert np.array_equal(host.pictures(unit(kind, weight=0))[0], plain)
    hires = dict(enable_hr=True, hr_scale=1.5, denoising_strength=0.85)
    halves = [host.pictures(unit(kind, hr_option=option), **hires)[0] for option in ("Both", "Low res only")]
    assert difference(*halves) >= 0.5
    assert host.watch()["hooks"] == 0


def test_a_weight_type_is_told_with_the_picture(host: Host) -> None:
    named = unit("IP-Adapter", advanced_weighting="style and composition", composition_weight=0.5)
    answer = host.post("/sdapi/v1/txt2img", job(named)).json()
    assert "Layer Weights: style and composition" in answer["info"]
    assert "Composition Weight: 0.5" in answer["info"]
    refused = host.post("/sdapi/v1/txt2img", job(unit("IP-Adapter", advanced_weighting="style transfr")))
    assert refused.status_code == 500
    assert "There is no such choice" in refused.text
