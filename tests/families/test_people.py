"""From somebody's picture to what the UNet puts out: detector, recogniser and encoders of the right class,
with random weights where people put theirs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ip_adapters
import nets
import numpy as np
import pytest
import torch
from stage import Stage
from tiny import pulid as pulid_files
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "annotator"))

import test_faces
import test_who
import weights

from controlstack import preprocess
from controlstack.annotator.identity import pulid
from controlstack.annotator.identity.clip import H
from controlstack.downloads import File, Store
from controlstack.errors import ControlError
from controlstack.face_analysis import ANTELOPE, BUFFALO
from controlstack.networks import Networks
from controlstack.packages import alone

POINTS = "points_instant_id"
CLIP = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=16)
CLIP |= dict(image_size=28, patch_size=14, projection_dim=8)
ASKS = {
    "FaceID": "ip-adapter_face_id",
    "FaceID-plus": "ip-adapter_face_id_plus",
    "InstantID": "instant_id_face_embedding",
    "PuLID": "ip-adapter_pulid",
}
"""What `ip-adapter-auto` has to become for each file."""
LAYOUTS = {"FaceID": "sd1", "FaceID-plus": "sd1", "InstantID": "sdxl", "PuLID": "sdxl"}
LICENCES = {
    "FaceID": (BUFFALO.detector, BUFFALO.recogniser),
    "FaceID-plus": (BUFFALO.detector, BUFFALO.recogniser),
    "InstantID": (ANTELOPE.detector, ANTELOPE.recogniser),
    "PuLID": (ANTELOPE.detector, ANTELOPE.recogniser, pulid.PARTS, pulid.SEEN),
}
"""What a user has to bring for each."""


def bring(store: Store, file: File, write: Callable[[Path], object]) -> None:
    path = store.place(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)


def tensors(state: Mapping[str, Tensor]) -> Callable[[Path], object]:
    return lambda path: torch.save(dict(state), path)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """All that is installed can run."""
    store = Store([tmp_path_factory.mktemp("encoders")], offline=True)
    for pack in (BUFFALO, ANTELOPE):
        bring(store, pack.detector, test_faces.detector)
        bring(store, pack.recogniser, test_faces.recogniser)
    if find_spec("transformers"):
        import transformers

        torch.manual_seed(0)
        vision = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**CLIP, hidden_act="gelu")
        )
        bring(store, H, tensors(vision.state_dict()))
    if find_spec("facexlib"):
        parser = alone("facexlib", "parsing.bisenet").BiSeNet(num_class=19)
        bring(store, pulid.PARTS, tensors(weights.like(parser, seed=3)))
    bring(store, pulid.SEEN, tensors(test_who.eva_clip()))
    return Networks(store, "cpu", bound=6)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    made = {}
    for layout in ("sd1", "sdxl"):
        folder = tmp_path_factory.mktemp(layout)
        made[layout] = Stage(folder, layout, "ControlNet")
        unet = made[layout].unet
        if layout == "sd1":
            files = {
                "FaceID": ip_adapters.adapter(unet, "face_id", face=512),
                "FaceID-plus": ip_adapters.adapter(
                    unet, "face_id_plus", face=512, patches=CLIP["hidden_size"]
                ),
            }
        else:
            files = {"InstantID": ip_adapters.adapter(unet, "instant_id")}
            whole = pulid_files.tensors(layout, 0, face=512 + test_who.KNOWN, wide=test_who.WIDTH)
            nets.save(folder / "PuLID.safetensors", whole)
            nets.save(folder / f"{POINTS}.safetensors", made[layout].tiny.tensors(layout, 0))
        for name, file in files.items():
            ip_adapters.saved(folder / f"{name}.safetensors", file)
        made[layout].catalog.refresh()
    return made


@pytest.fixture(params=ASKS)
def kind(request: pytest.FixtureRequest) -> str:
    for package in preprocess.find(ASKS[request.param]).packages:
        pytest.importorskip(package, exc_type=ImportError)
    return str(request.param)


def somebody(kind: str, x: int = 200, **fields: Any) -> dict[str, Any]:
    return {"model": kind, "module": "ip-adapter-auto", "image": test_faces.photograph((x, 80)), **fields}


def test_a_picture_of_somebody_shows_in_what_the_unet_puts_out(
    stages: dict[str, Stage], networks: Networks, kind: str
) -> None:
    stage, room = stages[LAYOUTS[kind]], preprocess.find(ASKS[kind])
    stage.networks = networks
    plain, painted = stage.output(), stage.output(somebody(kind))
    assert (painted - plain).abs().mean() > 0.02 * plain.abs().mean()
    assert not torch.allclose(stage.output(somebody(kind, 400)), painted, atol=1e-3)
    assert room.embed is not None
    known = room.embed(test_faces.photograph((200, 80)), replace(room.ask(), networks=networks))
    ready = stage.output({"model": kind, "ipadapter_input": [known]})
    torch.testing.assert_close(painted, ready, atol=1e-6, rtol=0)


def test_instant_ids_points_are_found_in_the_picture_too(
    stages: dict[str, Stage], networks: Networks
) -> None:
    stage = stages["sdxl"]
    stage.networks = networks
    points = {**somebody(POINTS), "module": "instant_id_face_keypoints"}
    alone, both = stage.output(somebody("InstantID")), stage.output(points, somebody("InstantID"))
    assert (both - alone).abs().mean() > 0.02 * alone.abs().mean()
    moved = {**points, "image": test_faces.photograph((400, 80))}
    assert not torch.allclose(stage.output(moved, somebody("InstantID")), both, atol=1e-3)


def test_what_a_user_has_to_bring_is_said_file_by_file(
    stages: dict[str, Stage], networks: Networks, tmp_path: Path, kind: str
) -> None:
    stage, store = stages[LAYOUTS[kind]], Store([tmp_path], offline=True)
    stage.networks = Networks(store, "cpu")
    for file in LICENCES[kind]:
        with pytest.raises(ControlError) as error:
            stage.begin(somebody(kind))
        assert file.name in str(error.value)
        assert file.licence in str(error.value)
        assert str(store.place(file).parent) in str(error.value)
        found = networks.store.find(file)
        assert found is not None
        bring(store, file, lambda path, found=found: path.write_bytes(found.read_bytes()))
    missing = preprocess.unavailable(preprocess.find(ASKS[kind]), stage.networks)
    assert missing is None or H.name in str(missing), "CLIP's can be downloaded"


def test_a_picture_of_nobody_is_said(stages: dict[str, Stage], networks: Networks, kind: str) -> None:
    stage = stages[LAYOUTS[kind]]
    stage.networks = networks
    nobody = np.full((320, 640, 3), 60, np.uint8)
    with pytest.raises(ControlError, match="No face is found"):
        stage.begin({**somebody(kind), "image": nobody})
