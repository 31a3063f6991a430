"""Reading model files, good and bad, and keeping models loaded."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import nets
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from controlstack.errors import ControlError
from controlstack.weights import Header, Loaded, read_header, read_tensors, short_hash, stamp

TENSORS = {"a.weight": torch.rand(2, 3), "a.bias": torch.rand(2).half(), "steps": torch.tensor(7)}
SHAPES = {"a.weight": (2, 3), "a.bias": (2,), "steps": ()}


def saved(path: Path, value: object, *, legacy: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "safetensors": lambda folder: nets.save(folder / "x.safetensors", TENSORS),
    "safetensors called .pth": lambda folder: nets.save(folder / "x.pth", TENSORS),
    "zip": lambda folder: saved(folder / "x.pth", TENSORS),
    "legacy": lambda folder: saved(folder / "x.ckpt", TENSORS, legacy=True),
    "zip called .safetensors": lambda folder: saved(folder / "x.safetensors", TENSORS),
    "legacy called .safetensors": lambda folder: saved(folder / "x.safetensors", TENSORS, legacy=True),
    "nested": lambda folder: saved(folder / "x.pt", {"state_dict": OrderedDict(TENSORS), "epoch": 3}),
    "parameters": lambda folder: saved(
        folder / "x.bin", TENSORS | {"a.weight": nn.Parameter(TENSORS["a.weight"])}
    ),
    "with other entries": lambda folder: saved(
        folder / "x.bin", TENSORS | {"name": "x", "lr": 0.1, "betas": [0.9]}
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_all_formats_give_the_same(tmp_path: Path, writer: str) -> None:
    header = read_header(WRITERS[writer](tmp_path))
    assert header.shapes == SHAPES
    tensors = read_tensors(header, SHAPES)
    assert tensors.keys() == SHAPES.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor, TENSORS[name])
        assert not tensor.requires_grad


@pytest.mark.parametrize("writer", ["safetensors", "zip"])
def test_only_what_is_asked_for_is_read_and_only_fractions_change_their_dtype(
    tmp_path: Path, writer: str
) -> None:
    header = read_header(WRITERS[writer](tmp_path))
    tensors = read_tensors(header, ["a.bias", "steps"], dtype=torch.bfloat16)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "a.bias": torch.bfloat16,
        "steps": torch.int64,
    }


def test_the_metadata_of_safetensors_is_read(tmp_path: Path) -> None:
    path = nets.save(tmp_path / "x.safetensors", TENSORS, {"num_attention_heads": "4"})
    assert read_header(path).metadata == {"num_attention_heads": "4"}


def test_nested_dictionaries_get_dotted_names(tmp_path: Path) -> None:
    """ip-adapter_sd15.bin holds {"image_proj": {…}, "ip_adapter": {…}}, its .safetensors has dotted names."""
    tree = {
        "image_proj": {"proj.weight": torch.rand(4, 2)},
        "ip_adapter": {"1.to_k_ip.weight": torch.rand(3, 2)},
    }
    header = read_header(saved(tmp_path / "ip-adapter.bin", tree))
    assert header.shapes == {"image_proj.proj.weight": (4, 2), "ip_adapter.1.to_k_ip.weight": (3, 2)}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["EVIL"],)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.setenv("EVIL", str(tmp_path / "ran"))
    path = saved(tmp_path / "evil.pth", {"a": torch.rand(2), "b": Evil()}, legacy=legacy)
    with pytest.raises(ControlError, match=r"more than tensors.*Convert it to \.safetensors"):
        read_header(path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists(), "the pickle must be able to do it"


def test_a_host_that_replaces_torch_load_takes_no_file_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A1111's answers None for every zip with entries that it does not know, as those of newer torch have."""
    path = saved(tmp_path / "x.pth", TENSORS)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: None)
    assert read_header(path).shapes == SHAPES


def truncated(path: Path) -> bytes:
    return path.read_bytes()[: path.stat().st_size * 2 // 3]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>", "a web page"),
        (b"\n  <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 722601100\n", "git-lfs"),
        (b"", "damaged or incomplete; it has 0 bytes"),
        (b"{}", "damaged or incomplete; it has 2 bytes"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_no_model_file_is_called_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, content: bytes, said: str
) -> None:
    """Not by safetensors' loader, which Forge replaces by one that moves such files away."""
    monkeypatch.setattr("safetensors.torch.load_file", lambda path, **_: Path(path).unlink())
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(ControlError, match=said) as caught:
        read_header(path)
    assert f"model{suffix}" in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("writer", ["safetensors", "zip", "legacy"])
def test_a_cut_off_download_is_called_damaged(tmp_path: Path, writer: str) -> None:
    path = WRITERS[writer](tmp_path)
    path.write_bytes(truncated(path))
    with pytest.raises(ControlError, match="cannot be read"):
        read_tensors(read_header(path), SHAPES)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=r"gone\.pth cannot be read.*No such file"):
        read_header(tmp_path / "gone.pth")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x40" + b"\0" * 7 + b"{"]), st.binary(max_size=80))
def test_any_bytes_are_a_header_or_a_sentence(tmp_path: Path, start: bytes, rest: bytes) -> None:
    path = tmp_path / "noise.bin"
    path.write_bytes(start + rest)
    with contextlib.suppress(ControlError):
        assert read_header(path).shapes == {}


def test_the_short_hash_is_that_of_64_kib_at_1_mib(tmp_path: Path) -> None:
    """AUTOMATIC1111's `sd_models.model_hash`."""
    path, small = tmp_path / "x.pth", tmp_path / "small.pth"
    content = bytes(range(256)) * 4500
    path.write_bytes(content)
    small.write_bytes(b"abc")
    assert short_hash(path) == hashlib.sha256(content[1048576 : 1048576 + 65536]).hexdigest()[:8]
    assert short_hash(small) == "e3b0c442", "sha256 of nothing, FIPS 180-4's example values"


def test_the_stamp_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(b"one")
    first = stamp(path)
    assert stamp(path) == first
    path.write_bytes(b"three")
    assert stamp(path) != first


class Builder:
    """Builds modules and counts them."""

    def __init__(self) -> None:
        self.built: list[str] = []

    def __call__(self, name: str) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            self.built.append(name)
            return nn.Identity()

        return build


def test_the_least_recently_used_model_goes_first() -> None:
    build, shelf = Builder(), Loaded(2)
    for name in "abacab":
        shelf.get(name, build(name))
        gc.collect()
    assert build.built == ["a", "b", "c", "b"]


def test_room_is_made_before_a_model_is_loaded() -> None:
    shelf = Loaded(1)
    first = weakref.ref(shelf.get("a", nn.Identity))
    alive: list[bool] = []

    def build() -> nn.Module:
        gc.collect()
        alive.append(first() is not None)
        return nn.Identity()

    shelf.get("b", build)
    assert alive == [False]


@pytest.mark.parametrize("bound", [0, 1])
def test_a_model_in_use_is_found_again_whatever_the_bound(bound: int) -> None:
    build, shelf = Builder(), Loaded(bound)
    held = shelf.get("a", build("a"))
    shelf.get("b", build("b"))
    assert shelf.get("a", build("a")) is held
    del held
    gc.collect()
    shelf.get("b", build("b"))
    shelf.get("a", build("a"))
    assert build.built == (["a", "b", "b", "a"])


def test_a_smaller_bound_lets_models_go_at_once() -> None:
    build, shelf = Builder(), Loaded(3)
    for name in "abc":
        shelf.get(name, build(name))
    shelf.bound = 1
    assert shelf.bound == 1
    gc.collect()
    for name in "cab":
        shelf.get(name, build(name))
        gc.collect()
    assert build.built == [*"abc", *"ab"]


def test_a_model_that_fails_to_load_is_tried_again() -> None:
    build, shelf = Builder(), Loaded(2)

    def fail() -> nn.Module:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        shelf.get("a", fail)
    shelf.get("a", build("a"))
    assert build.built == ["a"]


def test_threads_that_want_one_model_load_it_once() -> None:
    build, shelf, start = Builder(), Loaded(2), Barrier(4)
    got: list[nn.Module] = []

    def want() -> None:
        start.wait()
        got.append(shelf.get("a", build("a")))

    threads = [Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.built == ["a"]
    assert len(got) == 4
    assert len({id(module) for module in got}) == 1


def test_a_header_can_be_made_by_hand() -> None:
    assert Header(Path("x"), {"a": (1,)}).metadata == {}


def test_tensors_of_a_mapped_file_survive_its_replacement(tmp_path: Path) -> None:
    """Downloads replace a file by renaming, and a loaded model may still be a view of the old one."""
    path = nets.save(tmp_path / "x.safetensors", TENSORS)
    held: dict[str, Tensor] = read_tensors(read_header(path), ["a.weight"])
    other = nets.save(tmp_path / "y.safetensors", {"a.weight": torch.zeros(2, 3)})
    other.replace(path)
    assert torch.equal(held["a.weight"], TENSORS["a.weight"])
