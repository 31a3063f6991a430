"""What preprocessors keep loaded: bounded in bytes, counted, moved away before sampling, let go of."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from torch import nn

from controlstack import plan, preprocess, progress
from controlstack.catalog import Catalog
from controlstack.downloads import File, Store
from controlstack.hosts import unet_diffusers
from controlstack.networks import Networks, State, filled
from controlstack.preprocess import Ask, Cache, Embedding, Preprocessor
from controlstack.session import Session
from controlstack.sources import Job
from controlstack.unit import parse
from controlstack.weights import Loaded

SIDE = 100
BYTES = 4 * (SIDE * SIDE + SIDE)
"""Of one network below."""
PICTURE = np.zeros((64, 64, 3), np.uint8)


def _file(name: str) -> File:
    return File("nobody/nothing", f"{name}.pth", "tiny", "MIT")


def _network(state: State) -> nn.Module:
    return filled(nn.Linear(SIDE, SIDE), state)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    for name in "abc":
        torch.save(nn.Linear(SIDE, SIDE).state_dict(), tmp_path / f"{name}.pth")
    return Store([tmp_path], offline=True)


def _used(networks: Networks, name: str) -> weakref.ref[nn.Module]:
    return weakref.ref(networks.get(_file(name), _network))


def _alive(*networks: weakref.ref[nn.Module]) -> list[bool]:
    gc.collect()
    return [network() is not None for network in networks]


@pytest.mark.parametrize(
    ("bound", "alive"),
    [(0, [False, False, True]), (BYTES, [False, True, True]), (2 * BYTES, [True, True, True])],
)
def test_bytes_bound_what_stays_beside_the_last_one(bound: int, alive: list[bool], store: Store):
    networks = Networks(store, "cpu", bound)
    used = [_used(networks, name) for name in "abc"]
    assert _alive(*used) == alive
    assert networks.taken() == {"cpu": BYTES * sum(alive)}


def test_the_one_that_was_not_used_for_longest_goes(store: Store):
    networks = Networks(store, "cpu", BYTES)
    a, b = _used(networks, "a"), _used(networks, "b")
    assert _used(networks, "a")() is a()
    assert _alive(a, b, _used(networks, "c")) == [True, False, True]


def test_unloading_lets_go_of_all(store: Store):
    networks = Networks(store, "cpu")
    used = [_used(networks, name) for name in "ab"]
    networks.unload()
    assert _alive(*used) == [False, False]
    assert networks.taken() == {}


def test_a_host_makes_room_before_a_network_comes(store: Store):
    """The device "meta" holds no numbers: that a network got there shows where it lies."""
    asked: list[tuple[int, str, int]] = []

    def room(size: int, device: torch.device) -> None:
        asked.append((size, device.type, networks.taken().get("meta", 0)))

    networks = Networks(store, "meta", room=room)
    assert _used(networks, "a")
    assert _used(networks, "a")
    assert asked == [(BYTES, "meta", 0)]
    assert networks.taken() == {"meta": BYTES}
    assert Cache(networks=networks).taken()["on_device"] == BYTES


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card")
def test_networks_leave_the_graphics_card_before_sampling(store: Store):
    before = torch.cuda.memory_allocated()
    networks = Networks(store, "cuda")
    network = networks.get(_file("a"), _network)
    weight = network.weight.cpu()
    assert networks.taken() == {"cuda": BYTES}
    networks.rest()
    assert torch.cuda.memory_allocated() == before
    assert networks.taken() == {"cpu": BYTES}
    assert networks.get(_file("a"), _network) is network
    assert network.weight.device.type == "cuda"
    assert torch.equal(network.weight.cpu(), weight)


def _embedder(run: Callable[[Ask], Embedding]) -> Preprocessor:
    return Preprocessor(
        name="tiny", label="tiny", run=lambda image, _: image.copy(), embed=lambda _, ask: run(ask)
    )


def test_embeddings_keep_no_more_than_they_are(store: Store):
    """A row of a network's output is a view of all of it."""
    weight = torch.load(store.folders[0] / "a.pth")["weight"]
    cache = Cache(networks=Networks(store, "cpu"))
    preprocessor = _embedder(
        lambda ask: {
            "row": (output := ask.networks.get(_file("a"), _network).weight * 2)[3:4],
            "mean": output.mean(0),
        }
    )
    embedding = cache.embed(preprocessor, PICTURE, preprocessor.ask())
    assert torch.equal(embedding["row"], 2 * weight[3:4])
    for tensor in embedding.values():
        assert tensor.untyped_storage().nbytes() == 4 * SIDE
    assert cache.taken()["embeddings"] == 2 * 4 * SIDE


def test_bytes_bound_maps_and_embeddings(monkeypatch: pytest.MonkeyPatch, store: Store):
    monkeypatch.setattr(preprocess, "MAX_CACHED", 3 * PICTURE.nbytes)
    cache = Cache(networks=Networks(store, "cpu"))
    preprocessor = _embedder(lambda ask: {"seed": torch.zeros(PICTURE.nbytes, dtype=torch.uint8)})
    for seed in range(5):
        ask = replace(preprocessor.ask(), seed=seed)
        cache.run(preprocessor, PICTURE, ask)
        cache.embed(preprocessor, PICTURE, ask)
    assert cache.taken() == {
        "maps": 3 * PICTURE.nbytes,
        "embeddings": 3 * PICTURE.nbytes,
        "networks": 0,
        "on_device": 0,
    }


def test_clearing_leaves_nothing(store: Store):
    cache = Cache(networks=Networks(store, "cpu"))
    preprocessor = _embedder(lambda ask: {"weight": ask.networks.get(_file("a"), _network).weight[:1]})
    map_ = weakref.ref(cache.run(preprocessor, PICTURE, preprocessor.ask()))
    cache.embed(preprocessor, PICTURE, preprocessor.ask())
    assert cache.taken() == {
        "maps": PICTURE.nbytes,
        "embeddings": 4 * SIDE,
        "networks": BYTES,
        "on_device": 0,
    }
    cache.clear()
    assert set(cache.taken().values()) == {0}
    assert not _alive(map_)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("low_vram", [True, False])
def test_a_unit_with_low_vram_leaves_no_network(
    low_vram: bool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(image: np.ndarray, ask: Ask) -> np.ndarray:
        used.append(_used(ask.networks, "a"))
        return image.copy()

    used: list[weakref.ref[nn.Module]] = []
    preprocess.find("none")  # so that the shelf is full before it is changed
    monkeypatch.setattr(preprocess, "_shelf", dict(preprocess._shelf))
    preprocess.register(Preprocessor(name="tiny", label="tiny", run=run))
    nets.save(tmp_path / "net.safetensors", nets.controlnet(nets.SD1).state_dict())
    job = Job(width=64, height=64, base=unet_diffusers.base_of(nets.unet(nets.SD1)))
    unit = parse({"module": "tiny", "model": "net", "image": PICTURE, "low_vram": low_vram})
    cache = Cache(networks=Networks(store, "cpu"))
    session = Session(Loaded(), cache, [plan.resolve(0, unit, job, Catalog([tmp_path]))])
    session.prepare()
    assert _alive(*used) == [not low_vram]


def test_a_listener_hears_what_runs_and_what_is_loaded(store: Store):
    def run(image: np.ndarray, ask: Ask) -> np.ndarray:
        ask.networks.get(_file("a"), _network)
        return image.copy()

    heard: list[str] = []
    cache = Cache(networks=Networks(store, "cpu"))
    preprocessor = Preprocessor(name="tiny", label="some label", run=run)
    with progress.heard_by(lambda sentence, _: heard.append(sentence)):
        for seed in (1, 1, 2):
            cache.run(preprocessor, PICTURE, replace(preprocessor.ask(), seed=seed))
    assert heard == ["Preprocessing with some label", "Loading a.pth", "Preprocessing with some label"]
