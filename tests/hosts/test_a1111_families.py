"""Every family of control files in a real WebUI, once. `webui_server.py` says what it needs."""

from __future__ import annotations

from collections.abc import Iterator

import nets
import numpy as np
import pytest
from control_server import difference, pixels
from numpy.typing import NDArray
from test_a1111 import Client
from test_embeddings_over_http import KINDS as READ_EMBEDDINGS
from test_embeddings_over_http import unit as unit_of_embeddings
from test_families_over_http import READ_MAPS, TINY, file_of, unit
from webui_server import ABSENT, DIR, URL, running

pytestmark = [pytest.mark.webui, pytest.mark.skipif(not (URL or DIR), reason=ABSENT)]

nets.LAYOUTS["webui"] = nets.SD1
FILES = [kind for kind in READ_MAPS if hasattr(TINY[kind], "tensors")]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running(tmp_path_factory.mktemp("webui") / "data") as serves:
        models = serves.folder / "controls"
        for kind in FILES:
            nets.save(models / f"{file_of(kind)}.safetensors", TINY[kind].tensors("webui", 0))
            for name, tensors in getattr(TINY[kind], "beside", lambda _: {})("webui").items():
                nets.save(models / name, tensors)
        for kind in READ_EMBEDDINGS:
            nets.save(models / f"{kind}.safetensors", TINY[kind].tensors("webui", 0))
        assert serves.session.get("/controlnet/model_list?update=true").status_code == 200
        client = Client(serves)
        client.pictures(steps=1)
        yield client


@pytest.fixture(scope="module")
def plain(host: Client) -> NDArray[np.uint8]:
    return host.pictures()[0]


@pytest.mark.parametrize("kind", READ_EMBEDDINGS)
def test_ready_embeddings_show_in_the_picture_and_leave_nothing(
    host: Client, plain: NDArray[np.uint8], kind: str
) -> None:
    before = host.watch()
    one, other = (host.pictures(unit_of_embeddings(kind, seed))[0] for seed in range(2))
    print(f"{kind}: {difference(one, plain):.2f}, another picture's {difference(one, other):.2f}")
    assert difference(one, plain) >= 0.5
    assert difference(one, other) >= 0.5
    assert np.array_equal(host.pictures(unit_of_embeddings(kind, weight=0))[0], plain)
    assert np.array_equal(host.pictures()[0], plain)
    after = host.watch()
    assert (after["hooks"], after["callbacks"]) == (before["hooks"], before["callbacks"])


@pytest.mark.parametrize("kind", FILES)
def test_a_unit_of_every_family_shows_in_the_picture_and_leaves_nothing(
    host: Client, plain: NDArray[np.uint8], kind: str
) -> None:
    before = host.watch()
    answer = host.ask(unit(kind))
    assert answer.status_code == 200, answer.text
    change = difference(pixels(answer.json()["images"][0]), plain)
    print(f"{kind}: {change:.2f}")
    assert change >= 1
    assert np.array_equal(host.pictures(unit(kind, weight=0))[0], plain)
    assert np.array_equal(host.pictures()[0], plain)
    after = host.watch()
    assert (after["hooks"], after["callbacks"]) == (before["hooks"], before["callbacks"])
