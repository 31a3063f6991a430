"""A folder becomes examples, and everything wrong with it is said in sentences before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from training import SIDE, shape, write_folder

from controlstack import preprocess
from controlstack.train import folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", 6)


def test_fifty_examples(tmp_path: Path):
    found = folder.load(write_folder(tmp_path / "data"))
    assert (len(found), found.size) == (50, (SIDE, SIDE))
    for index in (0, 7, 49):
        picture, hint, caption = shape(index)
        example = found[index]
        assert torch.equal(example["picture"], torch.from_numpy(picture).permute(2, 0, 1))
        assert torch.equal(example["hint"], torch.from_numpy(hint).permute(2, 0, 1))
        assert example["caption"] == caption
    held_out = found.part(46, None)
    assert len(held_out) == 4
    assert held_out[3]["caption"] == shape(49)[2]


def test_all_faults_are_said_at_once(data: Path):
    (data / "captions" / "00.txt").unlink()
    (data / "hints" / "01.png").unlink()
    (data / "captions" / "02.txt").write_bytes(b"\xff\xfe\xfa")
    (data / "pictures" / "03.png").write_bytes((data / "pictures" / "03.png").read_bytes()[:90])
    Image.new("RGB", (SIDE, 32)).save(data / "pictures" / "04.png")
    (data / "hints" / "05.png").write_text("no picture", encoding="utf-8")
    (data / "captions" / "98.txt").write_text("nobody's", encoding="utf-8")
    Image.new("RGB", (SIDE, SIDE)).save(data / "hints" / "99.png")
    Image.new("RGB", (SIDE, SIDE)).save(data / "pictures" / "02.jpg")
    with pytest.raises(folder.FolderError) as raised:
        folder.load(data, size=(SIDE, SIDE))
    said = raised.value.faults
    expected = (
        "pictures/ has both 02.jpg and 02.png; remove one.",
        "captions/98.txt has no picture in pictures/.",
        "hints/99.png has no picture in pictures/.",
        "pictures/00.png has no caption: captions/00.txt is missing.",
        "pictures/01.png has no hint: hints/01.png is missing.",
        "captions/02.txt is no UTF-8 text.",
        "pictures/03.png cannot be read: ",
        "hints/05.png cannot be read: ",
        "pictures/04.png is 64x32 px, not 64x64; --crop would scale and cut it.",
        "hints/04.png is 64x64 px, but its picture is 64x32.",
    )
    assert len(said) == len(expected)
    for sentence, found in zip(expected, said, strict=True):
        assert found.startswith(sentence)
        assert found.endswith(".")
    assert all(sentence in str(raised.value) for sentence in said)


def test_an_empty_and_a_missing_folder(tmp_path: Path):
    with pytest.raises(folder.ControlError, match="There is no folder"):
        folder.load(tmp_path / "nowhere")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(folder.FolderError, match=r"pictures/ has no pictures \(\.png"):
        folder.load(tmp_path)


def test_a_list_instead_of_folders(data: Path):
    lines = [
        {"picture": "pictures/00.png", "hint": "hints/00.png", "caption": "one"},
        {"picture": "pictures/03.png", "hint": "hints/03.png", "caption": "two"},
    ]
    file = data / "metadata.jsonl"
    file.write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = folder.load(data)
    assert [found[i]["caption"] for i in range(len(found))] == ["one", "two"]
    bad = [*lines, {"picture": "pictures/09.png", "hint": "hints/01.png", "caption": "x"}, {"caption": 3}]
    file.write_text("\n".join([*map(json.dumps, bad), "nonsense"]), encoding="utf-8")
    with pytest.raises(folder.FolderError) as raised:
        folder.load(data)
    assert raised.value.faults == [
        "Line 3 of metadata.jsonl names the picture pictures/09.png, which does not exist.",
        "Line 4 of metadata.jsonl has no text for picture and caption and hint.",
        "Line 5 of metadata.jsonl is no JSON object.",
    ]


def test_hints_by_a_preprocessor(data: Path):
    """Expected: OpenCV's Canny with the preprocessor's usual thresholds, 100 and 200."""
    made = folder.Hints(preprocess.find("canny"))
    found = folder.load(data, made)[2]["hint"]
    expected = cv2.Canny(shape(2)[0], 100, 200)
    assert np.array_equal(found.numpy(), np.stack([expected] * 3))
    softer = folder.Hints(preprocess.find("canny"), a=1, b=2)
    assert folder.load(data, softer).fingerprint != folder.load(data, made).fingerprint
    assert (
        folder.load(data, made).fingerprint == folder.load(data, folder.Hints(made.preprocessor)).fingerprint
    )


def test_masks_for_inpainting(data: Path):
    """ControlNet 1.1 inpaint: -1 where the mask is white."""
    made = folder.Hints(preprocess.find("inpaint_only"))
    with pytest.raises(folder.FolderError) as raised:
        folder.load(data, made)
    assert raised.value.faults[0] == "pictures/00.png has no mask: masks/00.png is missing."
    (data / "masks").mkdir()
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, :20] = 255
    for index in range(6):
        Image.fromarray(mask).save(data / "masks" / f"{index:02}.png")
    hint = folder.load(data, made)[1]["hint"].numpy()
    assert (hint[:, :, :20] == -1).all()
    assert np.allclose(hint[:, :, 20:] * 255, shape(1)[0].transpose(2, 0, 1)[:, :, 20:])


def test_other_sizes_are_cut_when_asked(data: Path):
    """160x80 px scaled to 128x64, of which the middle is kept: 64x64, 32 px from the left.

    SDXL's numbers: height and width of the original, top and left of the cut, height and width of the result.
    """
    wide = np.zeros((80, 160, 3), np.uint8)
    wide[:, 40:120] = (0, 90, 0)
    Image.fromarray(wide).save(data / "pictures" / "00.png")
    Image.fromarray(wide * 2).save(data / "hints" / "00.png")
    example = folder.load(data, crop=True)[0]
    assert example["size"].tolist() == [80, 160, 0, 32, 64, 64]
    for name, green in (("picture", 90), ("hint", 180)):
        middle = example[name][:, :, 4:-4]
        assert example[name].shape == (3, 64, 64)
        assert (middle[1] == green).all()
        assert not middle[[0, 2]].any()
    with pytest.raises(folder.FolderError, match="both sides must be multiples of 8 px"):
        folder.load(data, size=(60, 60), crop=True)
