"""Public clients and their recorded requests in a real A1111: what the embedded host is asked, asked here.

`webui_server.py` says what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_clients
import test_webuiapi_client as of_webuiapi
from control_server import Host, job, unit
from PIL import Image
from test_clients import (  # noqa: F401
    test_a_clients_request,
    test_with_the_lenient_setting_a_failing_unit_is_left_out_and_said,
)
from test_webuiapi_client import (  # noqa: F401
    api,
    plain,
    test_a_model_by_the_name_that_the_list_gives,
    test_a_plain_call_after_a_controlled_one_is_plain,
    test_detect_with_the_clients_own_field_names,
    test_every_control_mode_acts_in_its_own_way,
    test_every_resize_mode_acts_in_its_own_way,
    test_img2img,
    test_inpainting,
    test_mistakes_raise_in_the_client,
    test_options,
    test_progress_and_interrupt,
    test_several_pictures_at_once,
    test_two_units,
    test_what_a_unit_says_decides,
    test_what_was_done_is_written_into_the_picture,
)
from webui_server import ABSENT, DIR, URL, running

pytestmark = [pytest.mark.webui, pytest.mark.skipif(not (URL or DIR), reason=ABSENT)]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with (
        pytest.MonkeyPatch.context() as patch,
        running(tmp_path_factory.mktemp("webui") / "data") as host,
    ):
        for tests in (test_clients, of_webuiapi):  # its control files are weaker than the embedded host's
            patch.setattr(tests, "SHOWN", 1)
        host.pictures(steps=1)
        yield host


@pytest.fixture(scope="module", autouse=True)
def one_connection_a_request(api: Any) -> None:  # noqa: F811
    """Forge's server ends a connection after a mistake, and its answer does not say so."""
    api.session.headers["Connection"] = "close"


@pytest.fixture
def setting(host: Host) -> Iterator[Callable[..., None]]:
    """Switches on what is off; A1111 lists no setting that nobody has set."""
    changed: list[str] = []

    def change(**settings: bool) -> None:
        changed.extend(settings)
        assert host.post("/sdapi/v1/options", settings).status_code == 200

    yield change
    host.post("/sdapi/v1/options", dict.fromkeys(changed, False))


def test_hires_fix(host: Host, api: Any) -> None:  # noqa: F811
    if host.post("/sdapi/v1/txt2img", job(enable_hr=True, denoising_strength=0.85)).status_code != 200:
        pytest.skip("for hires fix this WebUI needs a field that webuiapi does not send")
    of_webuiapi.test_hires_fix(host, api)


def test_the_lists(api: Any) -> None:  # noqa: F811
    assert api.controlnet_version() == 3
    assert {"net0", "net1", "net2"} <= {name.partition(" [")[0] for name in api.controlnet_model_list()}
    assert {"none", "canny", "inpaint_only", "tile_resample"} <= set(api.controlnet_module_list())
    assert "controlnet" in api.get_scripts()["txt2img"]
    assert api.util_get_current_model() in api.util_get_model_names()


def test_programs_cannot_choose_where_files_go(
    host: Host, setting: Callable[..., None], tmp_path: Path
) -> None:
    """As far as the host keeps programs from its own settings of this kind."""
    host.post("/sdapi/v1/options", {"api_useragent": "a program"})
    if host.watch()["useragent"]:
        host.post("/sdapi/v1/options", {"api_useragent": ""})
        pytest.skip("this WebUI lets programs set what nobody but its user may")
    test_clients.test_programs_cannot_choose_where_files_go(host, setting, tmp_path)


def test_detected_maps_are_saved_as_files(host: Host, setting: Callable[..., None]) -> None:
    maps = "detected_maps/*/**/*.png"  # in folders of the day
    before = set((host.folder / "outputs").rglob(maps))
    setting(control_net_detectmap_autosaving=True)
    _, canny, _ = host.pictures(unit(), unit(module="none"))
    saved = list({*(host.folder / "outputs").rglob(maps)} - before)
    assert len(saved) == 1, "a ready map is the user's own"
    assert "canny" in saved[0].parts
    assert np.array_equal(np.asarray(Image.open(saved[0])), canny)
