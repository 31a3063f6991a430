"""python -m controlstack.models: which weights there are, fetching and verifying them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hub import Hub, serving

from controlstack import models, preprocess

HED = preprocess.find("hed").files[0]


def test_list_names_every_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert models.main(["list", "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = {file for p in preprocess.everything() for file in (*p.files, *p.instead)}
    assert len(lines) == len(files)
    line = next(line for line in lines if line.startswith("hed/ControlNetHED.pth: not here"))
    assert "29.4 MB" in line
    assert HED.licence in line
    assert HED.source in line


def test_fetch_says_what_is_wrong_with_a_download(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    with serving(Hub({"lllyasviel/Annotators/resolve/main/ControlNetHED.pth": b"no network"})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert models.main(["fetch", "softedge_hed", "hed_safe", "--folder", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "10 bytes, not 29,444,406" in line


def test_fetch_finds_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "ControlNetHED.pth").write_bytes(b"mine")
    assert models.main(["fetch", "hed", "--folder", str(tmp_path)]) == 0
    assert str(tmp_path / "ControlNetHED.pth") in capsys.readouterr().out


def test_verify_finds_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert models.main(["verify", "hed", "--folder", str(tmp_path)]) == 0
    assert "not here" in capsys.readouterr().out
    (tmp_path / "ControlNetHED.pth").write_bytes(b"damaged")
    assert models.main(["verify", "hed", "--folder", str(tmp_path)]) == 1
    assert re.search("it has 7 bytes, not 29,444,406", capsys.readouterr().out)


def test_an_unknown_name_is_said(capsys: pytest.CaptureFixture[str]):
    assert models.main(["list", "hedd"]) == 1
    assert "Did you mean hed" in capsys.readouterr().err
