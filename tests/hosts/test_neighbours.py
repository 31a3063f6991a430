"""Who else is ControlNet: the incumbent by its two scripts, a copy of ours by its package; Forge's is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlstack.hosts.neighbours import first_rival, refusal


def extension(root: Path, name: str, *files: str) -> Path:
    for file in files:
        path = root / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root / name


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return extension(tmp_path, "m-ours", "lib_controlnet/controlstack/__init__.py", "scripts/controlnet.py")


SCRIPTS = ("scripts/controlnet.py", "scripts/external_code.py")


def test_the_incumbent_under_any_name(tmp_path: Path, own: Path) -> None:
    theirs = extension(tmp_path, "zz", *SCRIPTS)
    assert first_rival([own, theirs], own) == theirs
    assert first_rival([theirs, own], own) == theirs
    assert "'zz' is ControlNet here" in refusal(theirs)


def test_who_only_looks_alike(tmp_path: Path, own: Path) -> None:
    forge = extension(
        tmp_path, "sd_forge_controlnet", "scripts/controlnet.py", "lib_controlnet/external_code.py"
    )
    caller = extension(tmp_path, "adetailer", "scripts/!adetailer.py", "controlnet_ext/__init__.py")
    assert first_rival([forge, caller, own], own) is None


def test_of_two_copies_one_works(tmp_path: Path, own: Path) -> None:
    copy = extension(tmp_path, "a-copy", "lib_controlnet/controlstack/__init__.py", *SCRIPTS)
    both = [copy, own]
    assert first_rival(both, own) == copy
    assert first_rival(both, copy) is None


def test_a_link_goes_by_its_own_name(tmp_path: Path, own: Path) -> None:
    """As people link a checkout into the extensions folder, under the recommended name."""
    link = tmp_path / "z-link"
    link.symlink_to(own, target_is_directory=True)
    copy = extension(tmp_path, "n-copy", "lib_controlnet/controlstack/__init__.py", *SCRIPTS)
    assert first_rival([copy, link], own) == copy
    assert first_rival([link], own) is None
