"""Files for other models are refused in words that say what they are."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from controlstack import family
from controlstack.errors import ControlError
from controlstack.families.not_here import OTHER_MODELS
from controlstack.weights import Header

HEADERS = Path(__file__).parent / "headers"
SAID = {
    "flux": "a ControlNet for Flux",
    "flux_union": "a ControlNet for Flux",
    "sd3": "a ControlNet for Stable Diffusion 3",
    "qwen": "a ControlNet for Qwen-Image",
    "z_image": "a ControlNet for Z-Image",
    "hunyuan_dit": "a ControlNet for Hunyuan-DiT",
    "sana": "a ControlNet for Sana",
    "cosmos": "a ControlNet for Cosmos",
    "pulid_flux": "a PuLID for Flux",
}


def names(fixture: str) -> dict[str, tuple[int, ...]]:
    return json.loads(gzip.decompress((HEADERS / f"not_here-{fixture}.json.gz").read_bytes()))["shapes"]


@pytest.mark.parametrize("fixture", SAID)
def test_a_file_is_refused_by_what_it_is(fixture: str) -> None:
    with pytest.raises(ControlError) as error:
        family.recognise(Header(Path("canny.safetensors"), names(fixture)))
    assert str(error.value).startswith(f"ControlNet: canny.safetensors is {SAID[fixture]}")
    assert sum(kind.holds(names(fixture)) for kind in OTHER_MODELS) == 1


def test_what_only_a_name_tells() -> None:
    """docs/train_lllite_README.md of kohya-ss/sd-scripts"""
    name = "lllite_dit_blocks_0_self_attn_q_proj.down.weight"
    with pytest.raises(ControlError, match="a ControlNet-LLLite for Anima"):
        family.recognise(Header(Path("x.safetensors"), {name: (64, 2048)}))


def test_every_header_is_named_here() -> None:
    found = {file.name.removesuffix(".json.gz").partition("-")[2] for file in HEADERS.glob("not_here-*")}
    assert found == set(SAID)
