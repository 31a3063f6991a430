"""Units with folders of pictures: each round of a job is the job that one unit with that picture makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from control_server import Host, difference, job, pixels, png, serving, unit
from numpy.typing import NDArray
from PIL import Image
from skimage import data

PHOTOS = {
    "a2": data.astronaut()[:128, :128],
    "a10": data.coffee()[100:228, 200:328],
    "b": data.chelsea()[50:178, 100:228],
}


VISIBLE = 0.1
"""Levels of 255 on average: random nets change more by seed than by hint."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    scripts = folder / "extensions" / "series" / "scripts"
    scripts.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("series_script.py"), scripts / "series.py")
    with serving(folder) as host:
        yield host


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, photo in PHOTOS.items():
        Image.fromarray(photo).save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def painted(host: Host, *units: dict[str, Any], **fields: Any) -> list[NDArray[np.uint8]]:
    body = job(script_name="Series", script_args=[list(units)], **fields)
    del body["alwayson_scripts"]
    answer = host.post("/sdapi/v1/txt2img", body)
    assert answer.status_code == 200, answer.text
    return [pixels(picture) for picture in answer.json()["images"]]


def alone(host: Host, photo: NDArray[np.uint8], **fields: Any) -> NDArray[np.uint8]:
    return host.pictures(unit(image=png(photo)), **fields)[0]


def test_each_round_is_a_job_with_that_picture_and_the_same_seed(
    host: Host, photos: Path, tmp_path: Path
) -> None:
    batch = unit(image=None, input_mode="batch", batch_images=str(photos), output_dir=str(tmp_path / "out"))
    made = painted(host, batch, prompt="twice", n_iter=2)
    assert len(made) == 6  # no detected maps among them
    expected = [
        host.pictures(unit(image=png(photo)), prompt="twice", n_iter=2)[:2] for photo in PHOTOS.values()
    ]
    assert difference(expected[0][0], expected[1][0]) > VISIBLE
    assert difference(expected[0][0], expected[0][1]) > VISIBLE
    assert all(
        np.array_equal(a, b)
        for a, b in zip(made, (picture for round_ in expected for picture in round_), strict=True)
    )
    saved = {file.name: np.asarray(Image.open(file)) for file in (tmp_path / "out").iterdir()}
    names = ["a2.png", "a2-1.png", "a10.png", "a10-1.png", "b.png", "b-1.png"]
    assert sorted(saved) == sorted(names)
    assert all(np.array_equal(saved[name], picture) for name, picture in zip(names, made, strict=True))
    told = Image.open(tmp_path / "out" / "b-1.png").info["parameters"]
    assert "ControlNet 0" in told
    assert "Seed: 2" in told


def test_units_without_a_folder_keep_their_picture_and_the_shortest_folder_counts(
    host: Host, photos: Path
) -> None:
    short = [str(photos / "b.png"), str(photos / "a2.png")]
    made = painted(
        host,
        unit(image=None, input_mode="batch", batch_images=str(photos)),
        unit(model="net1", image=None, input_mode="batch", batch_images=short),
        unit(model="net2"),
    )
    expected = [
        host.pictures(
            *(
                unit(image=png(PHOTOS[first])),
                unit(model="net1", image=png(PHOTOS[second])),
                unit(model="net2"),
            )
        )[0]
        for first, second in (("a2", "b"), ("a10", "a2"))
    ]
    assert difference(*expected) > VISIBLE
    assert all(np.array_equal(a, b) for a, b in zip(made, expected, strict=True))


def test_a_unit_on_loopback_looks_at_what_was_painted_last(host: Host, photos: Path) -> None:
    batch = unit(image=None, input_mode="batch", batch_images=str(photos))
    made = painted(host, batch, unit(model="net1", loopback=True))
    looked_at = [None, *made[:2]]
    for picture, before, photo in zip(made, looked_at, PHOTOS.values(), strict=True):
        other = unit(model="net1") if before is None else unit(model="net1", image=png(before))
        assert np.array_equal(picture, host.pictures(unit(image=png(photo)), other)[0])


def test_several_pictures_in_one_unit_share_its_strength(host: Host) -> None:
    first, second = PHOTOS["a2"], PHOTOS["b"]
    merged = painted(host, unit(image=[png(first), png(second), None], input_mode="merge", weight=0.8))
    halves = [unit(image=png(photo), weight=0.4) for photo in (first, second)]
    expected = host.pictures(*halves)
    assert difference(expected[0], alone(host, first, weight=0.8)) > VISIBLE
    assert all(np.array_equal(a, b) for a, b in zip(merged, expected, strict=True))  # and both maps


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no such folder", "There is no folder 'no such folder'"),
        ("", "No folder and no files are given"),
        (["b.png"], "b.png cannot be read"),
    ],
)
def test_a_folder_that_cannot_be_read_stops_the_job_in_words(host: Host, given: Any, said: str) -> None:
    body = job(script_name="Series")
    body["script_args"] = [[unit(image=None, input_mode="batch", batch_images=given)]]
    answer = host.post("/sdapi/v1/txt2img", body)
    assert answer.status_code >= 400
    assert said in answer.text
    assert "ControlNet unit 0" in answer.text


def test_a_request_names_no_folders(host: Host, photos: Path) -> None:
    answer = host.post("/sdapi/v1/txt2img", job(unit(input_mode="batch", batch_images=str(photos))))
    assert len(answer.json()["images"]) == 2  # one picture and its map
    assert "input_mode" not in json.loads(answer.json()["info"]).get("extra_generation_params", {})
