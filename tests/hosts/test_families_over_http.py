"""Every family in a running host, once: asked over HTTP, seen in the picture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from control_server import PHOTO, RANDOM_BASE, Host, difference, png, serving
from numpy.typing import NDArray
from random_encoders import write_lama

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))

from stage import TINY

HIRES = dict(enable_hr=True, hr_scale=1.5, denoising_strength=0.85)
nets.LAYOUTS["random base"] = RANDOM_BASE
READ_MAPS = [
    kind
    for kind, tiny in TINY.items()
    if "module" not in getattr(tiny, "UNIT", {}) and getattr(tiny, "LAYOUTS", True)
]
"""What reads embeddings has a preprocessor of its own in the tests, which the host has not."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    models = folder / "models" / "ControlNet"
    models.mkdir(parents=True)
    for kind in READ_MAPS:
        nets.save(models / f"{file_of(kind)}.safetensors", TINY[kind].tensors("random base", 0))
        for name, tensors in getattr(TINY[kind], "beside", lambda _: {})("random base").items():
            nets.save(models / name, tensors)
    write_lama(folder / "models" / "ControlNetPreprocessor")
    flux = {"controlnet_blocks.0.weight": (8, 8), "single_transformer_blocks.0.norm.linear.weight": (8, 8)}
    nets.save(models / "for_another.safetensors", {name: torch.zeros(shape) for name, shape in flux.items()})
    with serving(folder) as serves:
        yield serves


def file_of(kind: str) -> str:
    return "family_" + "".join(filter(str.isalnum, kind)).lower()


def unit(kind: str, **fields: Any) -> dict[str, Any]:
    # As strong as may be: two steps of a random net hide much.
    return {"module": "canny", "model": file_of(kind), "image": PHOTO, "weight": 2, **fields}


@pytest.mark.parametrize("kind", READ_MAPS)
def test_a_unit_of_every_family_shows_in_the_picture_and_leaves_nothing(host: Host, kind: str) -> None:
    plain = host.pictures()[0]
    picture, hint = host.pictures(unit(kind))
    assert difference(picture, plain) >= 2
    assert set(np.unique(hint)) == {0, 255}
    upside_down = png(np.array(hint)[::-1].copy())
    assert difference(host.pictures(unit(kind, module="none", image=upside_down))[0], picture) >= 0.5
    assert np.array_equal(host.pictures(unit(kind, weight=0))[0], plain)
    assert host.watch()["hooks"] == 0


@pytest.mark.parametrize("kind", READ_MAPS)
def test_every_family_acts_in_the_hires_pass(host: Host, kind: str) -> None:
    plain = host.pictures(**HIRES)[0]
    shown = host.pictures(unit(kind, hr_option="High res only"), **HIRES)[0]
    assert shown.shape == (96, 96, 3)
    assert difference(shown, plain) >= 1
    assert host.watch()["hooks"] == 0


def test_all_families_together_are_one_picture(host: Host) -> None:
    kinds = [unit(kind, weight=0.7, save_detected_map=False) for kind in READ_MAPS]
    one, other = host.pictures(*kinds)[0], host.pictures(*reversed(kinds))[0]
    assert difference(one, other) < 0.5
    assert difference(one, host.pictures(kinds[0])[0]) >= 1


def test_references_need_no_model_and_leave_nothing(host: Host) -> None:
    """Two at once, of a picture and of its lines; the model in the field is of another control type."""
    plain, hires = host.pictures()[0], host.pictures(**HIRES)[0]
    strong = {"module": "reference_adain+attn", "threshold_a": 0, "save_detected_map": False}
    one = unit("ControlNet", **strong)
    other = {
        **one,
        "model": "None",
        "image": png(np.array(host.pictures(unit("ControlNet"))[1])[::-1].copy()),
    }
    picture = host.pictures(one, other)[0]
    assert difference(picture, plain) >= 1
    assert np.array_equal(host.pictures(one, other)[0], picture), "noise comes from the seed"
    assert np.array_equal(host.pictures({**one, "model": "None"})[0], host.pictures(one)[0])
    assert difference(host.pictures({**one, "hr_option": "High res only"}, **HIRES)[0], hires) >= 1
    assert host.watch()["hooks"] == 0


@pytest.mark.parametrize(
    ("asked", "job"),
    [
        (dict(module="style_align"), dict(batch_size=2)),
        # Where all is masked nothing is kept: what shows is the noise that the job starts from.
        (dict(module="inpaint_only+lama", image=PHOTO, mask=png(np.full((256, 256), 255, np.uint8))), {}),
    ],
    ids=["style align", "start from the picture"],
)
def test_what_acts_without_a_model_shows_and_leaves_nothing(
    host: Host, asked: dict[str, Any], job: dict[str, Any]
) -> None:
    def picture(*units: dict[str, Any]) -> NDArray[np.uint8]:
        return host.pictures(*units, **job)[0]

    one, plain = {"model": "None", "save_detected_map": False, **asked}, picture()
    shown = picture(one)
    assert difference(shown, plain) >= 0.1
    assert np.array_equal(picture(one), shown)
    assert np.array_equal(picture({**one, "weight": 0}, {**one, "guidance_start": 0.9}), plain)
    assert np.array_equal(picture(), plain)
    assert host.watch()["hooks"] == 0


def test_a_file_for_another_model_is_said(host: Host) -> None:
    answer = host.post(
        "/sdapi/v1/txt2img",
        {
            "prompt": "",
            "steps": 1,
            "alwayson_scripts": {"controlnet": {"args": [unit("x", model="for_another")]}},
        },
    )
    assert answer.status_code >= 400
    assert "for_another.safetensors is a ControlNet for Flux" in answer.text
