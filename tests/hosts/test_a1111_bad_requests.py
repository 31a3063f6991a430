"""The table of bad requests through a real A1111. `webui_server.py` says what it needs.

What the host itself has to refuse is left out: its fields are its own; it would paint a width of a billion.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from control_server import Host, unit
from PIL import Image
from test_hostile_requests import (
    OF_ROUTES,
    OF_UNITS,
    Bad,
    Before,
    Payload,
    answered,
    files,
    send,
    sentence,
    write_bad_models,
)
from webui_server import ABSENT, DIR, URL, running

pytestmark = [pytest.mark.webui, pytest.mark.skipif(not (URL or DIR), reason=ABSENT)]

TOO_DEEP, TOO_LONG = "maximum recursion depth exceeded", "Integer exceeds 64-bit range"
HOSTS_ANSWER = {
    "pulid_mode: nested nine hundred times": TOO_DEEP,
    "low_vram: nested nine hundred times": TOO_DEEP,
    "a picture nested nine hundred times": TOO_DEEP,
    "a list nested nine hundred times for a unit": TOO_DEEP,
    "processor_res: gigantic, which means the default": TOO_LONG,
}
"""pydantic 1 copies the request before a script sees it; the answer to a job repeats the request. Forge has
pydantic 2 and hands all but the number on."""
BAD = {bad.name: bad for bad in (*OF_UNITS, *OF_ROUTES)}


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no request may touch."""
    victim = tmp_path_factory.mktemp("victim")
    Image.new("RGB", (256, 256), "red").save(victim / "secret.png")
    return victim


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, victim: Path) -> Iterator[Host]:
    with (
        pytest.MonkeyPatch.context() as patch,
        running(tmp_path_factory.mktemp("webui") / "data") as host,
    ):
        patch.setattr(Payload, "file", victim / "executed")
        write_bad_models(host.folder / "controls")
        assert host.session.get("/controlnet/model_list?update=true").status_code == 200
        yield host


@pytest.fixture(scope="module")
def before(host: Host, victim: Path) -> Before:
    return Before(host.pictures()[0], host.pictures(unit()), files(victim) | files(host.folder / "controls"))


@pytest.mark.parametrize(
    "bad", [bad for name, bad in BAD.items() if name not in HOSTS_ANSWER], ids=lambda bad: bad.name
)
def test_it_is_said(host: Host, before: Before, victim: Path, bad: Bad) -> None:
    hooks = host.watch()["hooks"]
    answered(host, before, victim, bad)
    assert host.watch()["hooks"] == hooks


@pytest.mark.parametrize(("name", "says"), HOSTS_ANSWER.items(), ids=HOSTS_ANSWER)
def test_the_host_refuses(host: Host, before: Before, victim: Path, name: str, says: str) -> None:
    hooks = host.watch()["hooks"]
    if says == TOO_DEEP and host.watch()["pydantic"] > 1:
        answered(host, before, victim, BAD[name])
    else:
        answer = send(host, BAD[name], victim)
        assert answer.status_code == 500
        assert says in sentence(answer)
    assert host.watch()["hooks"] == hooks


def test_after_all_of_them_nothing_has_changed(host: Host, before: Before, victim: Path) -> None:
    assert np.array_equal(host.pictures()[0], before.plain)
    assert all(map(np.array_equal, host.pictures(unit()), before.controlled))
    assert files(victim) | files(host.folder / "controls") == before.files
    assert not (victim / "executed").exists()
