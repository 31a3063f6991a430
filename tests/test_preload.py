from __future__ import annotations

import runpy
from argparse import ArgumentParser
from pathlib import Path

import pytest

PRELOAD = runpy.run_path(str(Path(__file__).parents[1] / "preload.py"))


def test_flags_are_added_once_even_beside_a_host_that_has_them() -> None:
    """Forge's own parser has --controlnet-dir; argparse refuses a second one."""
    parser = ArgumentParser()
    parser.add_argument("--controlnet-dir", type=Path)
    PRELOAD["preload"](parser)
    PRELOAD["preload"](parser)
    read = parser.parse_args(["--controlnet-dir", "models"])
    assert read.controlnet_dir == Path("models")
    assert read.controlnet_preprocessor_cache_size is None


def test_flags_of_forges_built_in_controlnet_are_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `preload.py` runs after ours, and its modules read a log level that must not be None."""
    (tmp_path / "modules_forge").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    parser = ArgumentParser()
    PRELOAD["preload"](parser)
    parser.add_argument("--controlnet-loglevel", default="INFO")
    parser.add_argument("--controlnet-tracemalloc", action="store_true")
    assert parser.parse_args([]).controlnet_loglevel == "INFO"


def test_flags_keep_their_names() -> None:
    parser = ArgumentParser()
    PRELOAD["preload"](parser)
    theirs = ("dir", "annotator-models-path", "preprocessor-models-dir", "preprocessor-cache-size")
    theirs += ("loglevel", "tracemalloc")
    flags = {f"--controlnet-{name}" for name in theirs} | {"--no-half-controlnet"}
    assert flags <= parser._option_string_actions.keys()
    read = parser.parse_args(["--controlnet-loglevel", "debug", "--no-half-controlnet"])
    assert (read.controlnet_loglevel, read.no_half_controlnet) == ("DEBUG", True)
