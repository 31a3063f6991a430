"""Which control files there are, and which one a name means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlstack.catalog import Catalog
from controlstack.errors import ControlError
from controlstack.weights import short_hash

FILES = (
    "control_v11p_sd15_canny.pth",
    "control_v11p_sd15_canny_fp16_extra.safetensors",
    "sub/deeper/Control_V11f1p_SD15_Depth.SafeTensors",
    "t2iadapter_style.v1.bin",
    "old.ckpt",
    "x.pt",
)


def put(folder: Path, names: Sequence[str]) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 0x100010)
    return folder


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog([put(tmp_path_factory.mktemp("models"), FILES)])


def test_names_are_stems_with_hashes_sorted_in_any_case(catalog: Catalog) -> None:
    folder = catalog.folders[0]
    stems = {Path(name).stem: short_hash(folder / name) for name in FILES}
    assert len(set(stems.values())) == len(FILES)
    assert catalog.names() == [f"{stem} [{stems[stem]}]" for stem in sorted(stems, key=str.lower)]


def test_other_files_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, ["a.yaml", "b.txt", "None.pth", "none.safetensors", "c.pth.part", "pth"])
    assert Catalog([tmp_path]).names() == []


def test_the_first_folder_wins(tmp_path: Path) -> None:
    one, two = put(tmp_path / "one", ["Canny.pth"]), put(tmp_path / "two", ["depth.pth", "canny.safetensors"])
    catalog = Catalog([one, two, tmp_path / "missing"])
    assert catalog.find("canny") == one / "Canny.pth"
    assert catalog.find("depth") == two / "depth.pth"
    assert len(catalog.names()) == 2


@pytest.mark.parametrize(
    "name",
    [
        "{stem} [{hash}]",
        "{stem}",
        "{stem} [00000000]",
        "{stem}[{hash}]",
        "{upper}",
        "{upper} [{hash}]",
        "{stem}.safetensors",
        "{stem}.pth [{hash}]",
        "some/sub/folder/{stem}.pth",
        "C:\\models\\{stem}.safetensors",
        "  {stem} ",
    ],
)
@pytest.mark.parametrize("file", FILES)
def test_a_name_may_be_written_in_many_ways(catalog: Catalog, file: str, name: str) -> None:
    path = catalog.folders[0] / file
    written = name.format(stem=path.stem, upper=path.stem.upper(), hash=short_hash(path))
    assert catalog.find(written) == path


@pytest.mark.parametrize("part", ["canny", "Canny", "sd15_canny", "v11p", "control"])
def test_a_part_means_the_shortest_stem_with_it(catalog: Catalog, part: str) -> None:
    assert catalog.find(part).name == FILES[0]


def test_a_stale_hash_is_mentioned_in_the_log(catalog: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    catalog.find(catalog.names()[0])
    assert not caplog.messages
    catalog.find("old [00000000]")
    assert "not here with that hash; using old [" in caplog.text


def test_an_unknown_name_gets_near_ones(catalog: Catalog) -> None:
    with pytest.raises(
        ControlError, match=r"'control_v11p_sd15_cany'.*Did you mean control_v11p_sd15_canny \["
    ):
        catalog.find("control_v11p_sd15_cany")
    with pytest.raises(ControlError, match="refresh the list"):
        catalog.find("zzz")


@pytest.mark.parametrize("name", ["", " ", "[00000000]", "/", "../"])
def test_an_empty_name_means_no_file(catalog: Catalog, name: str) -> None:
    with pytest.raises(ControlError, match="no control model"):
        catalog.find(name)


@given(st.text(max_size=30))
def test_any_text_is_a_listed_file_or_a_sentence(catalog: Catalog, name: str) -> None:
    try:
        path = catalog.find(name)
    except ControlError:
        return
    assert path.relative_to(catalog.folders[0]).as_posix() in FILES


def test_refresh_sees_new_changed_and_lost_files(tmp_path: Path) -> None:
    put(tmp_path, ["a.pth", "b.pth"])
    catalog = Catalog([tmp_path])
    first = catalog.names()
    (tmp_path / "b.pth").unlink()
    (tmp_path / "a.pth").write_bytes(b"\7" * 0x100020)
    put(tmp_path, ["c.pth"])
    assert catalog.names() == first
    catalog.refresh()
    assert catalog.names() == [
        f"a [{short_hash(tmp_path / 'a.pth')}]",
        f"c [{short_hash(tmp_path / 'c.pth')}]",
    ]


def test_hashes_are_read_once_for_an_unchanged_file(tmp_path: Path) -> None:
    put(tmp_path, ["a.pth"])
    stat = (tmp_path / "a.pth").stat()
    catalog = Catalog([tmp_path])
    first = catalog.names()
    (tmp_path / "a.pth").write_bytes(b"\7" * stat.st_size)
    os.utime(tmp_path / "a.pth", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    catalog.refresh()
    assert catalog.names() == first, "the same time and size: not read again"


def test_links_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    models, outside = put(tmp_path / "models", ["a.pth"]), put(tmp_path / "outside", ["linked.pth", "b.pth"])
    (models / "linked.pth").symlink_to(outside / "linked.pth")
    (models / "folder").symlink_to(outside)
    (models / "loop").symlink_to(models)
    (models / "inside.pth").symlink_to(models / "a.pth")
    (models / "dangling.pth").symlink_to(models / "gone.pth")
    assert [name.split(" ")[0] for name in Catalog([models]).names()] == ["a", "b", "inside", "linked"]
    (tmp_path / "linked").symlink_to(models)
    assert len(Catalog([tmp_path / "linked"]).names()) == 4, "a folder given may be a link itself"
