"""The demo models in a real A1111 and in the embedded host: the same requests over HTTP, the same adherence.

Install them first: `python -m controlstack.train.demo --install WEBUI`. `CONTROLSTACK_WEBUI_URL` names the
WebUI, `CONTROLSTACK_WEBUI_SCENES` how many scenes never trained on are asked for, 8 unless it is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import embedded_server
import httpx
import numpy as np
import pytest
from control_server import Host, pixels, png
from numpy.typing import NDArray

from controlstack.hosts.embedded import demo_models
from controlstack.train.demo import adherence, files, readouts
from controlstack.train.demo.scenes import Scene

URL = os.environ.get("CONTROLSTACK_WEBUI_URL", "")
SCENES = int(os.environ.get("CONTROLSTACK_WEBUI_SCENES", "8"))
pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(not URL, reason="CONTROLSTACK_WEBUI_URL names no running WebUI"),
]
JOB = dict(negative_prompt="", width=128, height=128, steps=12, cfg_scale=3)
MEASURES = ("canny", "depth", "segmentation by scene", "openpose")
Picture = NDArray[np.uint8]


class Demo:
    """Pictures that a host paints with the demo's base."""

    def __init__(self, host: Host) -> None:
        self.host = host

    @cache  # noqa: B019  both hosts live as long as this module's tests
    def paint(self, kind: str, index: int, sampler: str) -> Picture:
        """Of the scene with this index, under a unit of this kind; of none for ""."""
        asked = dict(JOB, sampler_name=sampler, seed=index, prompt=scenes(kind)[index].caption)
        if kind:
            unit = adherence.unit(kind, scenes(kind)[index])
            unit |= {"image": png(unit["image"]), "processor_res": 128}
            asked["alwayson_scripts"] = {"ControlNet": {"args": [unit]}}
        answer = self.host.post("/sdapi/v1/txt2img", asked)
        assert answer.status_code == 200, answer.text
        return pixels(answer.json()["images"][0])


@cache
def measures() -> dict[str, adherence.Kind]:
    return adherence.kinds(readouts.load(demo_models.FOLDER / f"{files.READER}.safetensors"))


@cache
def scenes(kind: str) -> list[Scene]:
    return adherence.held_out(measures()[kind or "canny"], SCENES)


@pytest.fixture(scope="module")
def webui() -> Iterator[Demo]:
    host = Host(URL, Path())
    host.session = httpx.Client(base_url=URL, timeout=600, trust_env=False)
    with host.session:
        listed = host.session.get("/sdapi/v1/sd-models").json()
        base = next((one for one in listed if one["model_name"] == demo_models.BASE), None)
        if base is None:
            pytest.skip("the demo models are not installed in this WebUI")
        ours = (demo_models.FOLDER / f"{demo_models.BASE}.safetensors").read_bytes()
        assert Path(base["filename"]).read_bytes() == ours
        before = host.session.get("/sdapi/v1/options").json()["sd_model_checkpoint"]
        host.post("/sdapi/v1/options", {"sd_model_checkpoint": base["title"]}).raise_for_status()
        yield Demo(host)
        host.post("/sdapi/v1/options", {"sd_model_checkpoint": before}).raise_for_status()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = demo_models.FOLDER
    models = ["--ckpt", str(folder / f"{demo_models.BASE}.safetensors")]
    models += ["--controlnet-dir", str(folder / demo_models.CONTROLNETS)]
    with embedded_server.running(tmp_path_factory.mktemp("embedded"), *models) as client:
        host = Host(client.address, Path())
        host.session = httpx.Client(base_url=client.address, timeout=600, trust_env=False)
        with host.session:
            yield Demo(host)


@pytest.mark.parametrize("kind", ["", "canny", "depth", "segmentation", "openpose"])
def test_with_the_same_noise_levels_the_pictures_are_the_same(webui: Demo, embedded: Demo, kind: str) -> None:
    """Euler's sigmas are the same on both hosts."""
    apart = []
    for index in range(min(SCENES, 4)):
        one, other = (host.paint(kind, index, "Euler") for host in (webui, embedded))
        assert one.std() > 5
        apart.append(int(np.abs(one.astype(int) - other).max()))
    print(f"{kind or 'plain'}: at most {apart} levels apart")
    assert max(apart) <= 2


@pytest.mark.parametrize("name", MEASURES)
def test_pictures_follow_their_hints_as_well_as_in_the_embedded_host(
    webui: Demo, embedded: Demo, name: str
) -> None:
    """With DDIM, whose timesteps the hosts choose differently. The scenes are the sample, whose mean has a
    standard error."""
    kind = measures()[name]
    shown = scenes(kind.name)
    made = [[host.paint(kind.name, i, "DDIM") for i in range(SCENES)] for host in (webui, embedded)]
    ours, theirs = (_scores(kind, pictures, shown) for pictures in made)
    other = _scores(kind, made[0], shown[1:] + shown[:1])
    error = max(_error(ours), _error(theirs))
    print(
        f"{name}, {kind.measure}, {SCENES} scenes: {ours.mean():.3f} here, {theirs.mean():.3f} embedded, "
        f"standard error {error:.3f}, of the paired difference {_error(ours - theirs):.3f}; "
        f"another scene's hint {other.mean():.3f}"
    )
    assert abs(ours.mean() - theirs.mean()) <= error
    assert ours.mean() - other.mean() > 4 * error


def _scores(kind: adherence.Kind, pictures: list[Picture], truths: list[Scene]) -> NDArray[Any]:
    return np.array([kind.score([made], [truth]) for made, truth in zip(pictures, truths, strict=True)])


def _error(values: NDArray[Any]) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)
