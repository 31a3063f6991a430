"""Weights: found where people put them, downloaded once from a hub on this computer, verified, resumed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hub import Hub, serving

from controlstack import downloads, progress
from controlstack.downloads import File, Store
from controlstack.errors import ControlError

CONTENT = bytes(range(256)) * 4096
FILE = File(
    "someone/annotators",
    "deep/down/net.pth",
    "hed",
    "MIT",
    sha256=sha256(CONTENT).hexdigest(),
    size=len(CONTENT),
)
KEY = "someone/annotators/resolve/main/deep/down/net.pth"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub({KEY: CONTENT})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield running


def _left(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_downloaded_to_its_folder_and_nothing_else_stays(hub: Hub, tmp_path: Path):
    path = Store([tmp_path]).get(FILE)
    assert path == tmp_path / "hed" / "net.pth"
    assert path.read_bytes() == CONTENT
    assert _left(tmp_path) == [path]
    assert not (tmp_path / downloads.PARTIAL).exists()
    assert hub.bodies() == [None]


def test_what_is_there_is_not_downloaded(hub: Hub, tmp_path: Path):
    store = Store([tmp_path])
    assert store.get(FILE) == store.get(FILE)
    assert hub.bodies() == [None]


@pytest.mark.parametrize("place", ["hed/net.pth", "net.pth", "someone/annotators/net.pth"])
def test_files_are_found_where_people_put_them(place: str, hub: Hub, tmp_path: Path):
    """The incumbent's and Forge's subfolder, the folder itself, and controlnet_aux' subfolder."""
    put = tmp_path / "second" / place
    put.parent.mkdir(parents=True)
    put.write_bytes(b"mine")
    assert Store([tmp_path / "first", tmp_path / "second"]).get(FILE) == put
    assert hub.asked == []


def test_the_folders_of_the_incumbent_and_of_forge(tmp_path: Path):
    first, forge, own, incumbent, models = downloads.folders(tmp_path / "models", tmp_path / "chosen")
    assert first == tmp_path / "chosen"
    assert forge == tmp_path / "models" / "ControlNetPreprocessor"
    assert own.parts[-2:] == ("annotator", "downloads")
    assert incumbent.parts[-3:] == ("sd-webui-controlnet", "annotator", "downloads")
    assert models == tmp_path / "models", "where Forge has insightface"


def test_two_who_ask_at_once_get_one_download(hub: Hub, tmp_path: Path):
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: Store([tmp_path]).get(FILE), range(4)))
    assert paths == {tmp_path / "hed" / "net.pth"}
    assert hub.bodies() == [None]


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        (replace(FILE, sha256="0" * 64), "sha256"),
        (replace(FILE, size=7), "bytes"),
    ],
    ids=["another sum", "another size"],
)
def test_a_damaged_download_leaves_nothing(file: File, complaint: str, hub: Hub, tmp_path: Path):
    with pytest.raises(ControlError, match=complaint) as caught:
        Store([tmp_path]).get(file)
    assert _left(tmp_path) == []
    said = str(caught.value)
    assert all(part in said for part in ("net.pth", file.source, str(tmp_path / "hed")))


def test_without_a_published_sum_the_hubs_own_is_checked(hub: Hub, tmp_path: Path):
    unknown = replace(FILE, sha256=None, size=None)
    assert Store([tmp_path / "one"]).get(unknown).is_file()
    hub.stated[KEY] = "0" * 64
    with pytest.raises(ControlError, match="sha256"):
        Store([tmp_path / "two"]).get(unknown)


def test_an_interrupted_download_is_no_file_and_is_resumed(hub: Hub, tmp_path: Path):
    """The hub drops the line after 11 MB; huggingface_hub writes 10 MB at a time.

    Some of its versions try again themselves, others leave that to the next job.
    """
    hub.files[KEY] = content = 12 * CONTENT
    hub.breaks_after = 11_000_000
    file, store = replace(FILE, size=len(content), sha256=sha256(content).hexdigest()), Store([tmp_path])
    try:
        store.get(file)
    except ControlError as error:
        assert "download failed" in error.why  # noqa: PT017
        assert store.find(file) is None
    assert store.get(file).read_bytes() == content
    first, second = hub.bodies()
    assert first is None
    assert second
    assert int(second.removeprefix("bytes=").partition("-")[0]) > 0
    assert _left(tmp_path) == [tmp_path / "hed" / "net.pth"]


def test_a_file_that_the_hub_lacks_is_said(hub: Hub, tmp_path: Path):
    with pytest.raises(ControlError, match="download failed"):
        Store([tmp_path]).get(replace(FILE, path="gone.pth"))
    assert not list(tmp_path.rglob("*.pth"))


def test_nobody_is_asked_while_offline(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ControlError, match="switched off"):
        Store([tmp_path], offline=True).get(FILE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ControlError, match="switched off"):
        Store([tmp_path]).get(FILE)
    assert hub.asked == []


def test_a_licence_that_leaves_the_choice_is_respected(hub: Hub, tmp_path: Path):
    bound = replace(FILE, licence="research only", placed_by_user=True)
    store = Store([tmp_path])
    with pytest.raises(ControlError, match="research only"):
        store.get(bound)
    assert hub.asked == []
    (tmp_path / "net.pth").write_bytes(b"mine")
    assert store.get(bound) == tmp_path / "net.pth"


def test_the_log_tells_of_start_progress_and_end(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="ControlStack")
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / "x.incomplete").write_bytes(CONTENT[: len(CONTENT) // 2])
    with downloads._progress(FILE, partial, every=0.02):
        while not any("(50%)" in line for line in caplog.messages):
            pass
    Store([tmp_path]).get(FILE)
    assert "Downloading net.pth, 1.0 MB, from " + FILE.source in caplog.messages
    assert f"net.pth is in {tmp_path / 'hed'}." in caplog.messages


def test_a_listener_hears_the_same(hub: Hub, tmp_path: Path):
    """Also from the thread that watches a download."""
    heard: list[tuple[str, float | None]] = []
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / "x.incomplete").write_bytes(CONTENT[: len(CONTENT) // 4])
    with progress.heard_by(lambda sentence, share: heard.append((sentence, share))):
        with downloads._progress(FILE, partial, every=0.02):
            while len(heard) < 2:
                pass
        Store([tmp_path]).get(FILE)
    Store([tmp_path / "other"]).get(FILE)
    assert heard[:2] == [(f"Downloading net.pth, 1.0 MB, from {FILE.source}", None), ("net.pth: 0 MB", 0.25)]
    assert heard[-1] == (f"net.pth is in {tmp_path / 'hed'}.", None)


def test_verify_says_what_differs(tmp_path: Path):
    path = tmp_path / "net.pth"
    path.write_bytes(CONTENT)
    store = Store([tmp_path])
    assert store.verify(FILE, path) is None
    path.write_bytes(CONTENT[:-1] + b"x")
    assert "sha256" in str(store.verify(FILE, path))
    path.write_bytes(CONTENT[:-1])
    assert "bytes" in str(store.verify(FILE, path))
