"""The extension's own routes, as clients call them. Shapes and texts are sd-webui-controlnet 1.1.455's."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from hashlib import blake2b, sha256
from pathlib import Path
from types import ModuleType
from typing import Any
from zlib import crc32

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import save_file

from controlstack import downloads, embeddings, pose, preprocess
from controlstack.faces import api
from controlstack.hosts.webui import WebUI
from controlstack.image import Array
from controlstack.networks import filled
from controlstack.preprocess import Ask, Preprocessor

DOCS = Path(__file__).parents[2] / "docs"

ROUTES = [
    ("GET", "/controlnet/version"),
    ("GET", "/controlnet/model_list"),
    ("GET", "/controlnet/module_list"),
    ("GET", "/controlnet/control_types"),
    ("GET", "/controlnet/settings"),
    ("GET", "/controlnet/memory"),
    ("DELETE", "/controlnet/memory"),
    ("POST", "/controlnet/detect"),
    ("POST", "/controlnet/render_openpose_json"),
]


class Host(WebUI):
    """A WebUI that has settings and a folder of models, and generates nothing."""

    def __init__(self, folder: Path, options: dict[str, Any] | None = None, **flags: Any) -> None:
        self.folder, self.options, self.flags = folder, options or {}, flags
        self._lock = threading.Lock()
        super().__init__()

    @property
    def lock(self) -> AbstractContextManager[Any]:
        return self._lock

    def option(self, key: str, default: object) -> Any:
        return self.options.get(key, default)

    def flag(self, key: str) -> Any:
        return self.flags.get(key)

    def model_folders(self) -> Sequence[Path]:
        return [self.folder]

    def base(self, p: Any) -> Any:
        raise NotImplementedError("nothing is generated here")

    services = base

    def attach(self, p: Any, session: Any) -> Any:
        raise NotImplementedError("nothing is generated here")


def _client(host: Host) -> TestClient:
    app = FastAPI()
    api.register(app, host)
    return TestClient(app)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def client(host: Host) -> Iterator[TestClient]:
    with _client(host) as client:
        yield client


def _model(folder: Path, stem: str) -> str:
    """A model file, and its name: the hash is of 64 KiB at 1 MiB, as A1111's `model_hash`."""
    file = folder / f"{stem}.safetensors"
    save_file({"weight": torch.full((300_000,), float(len(stem)))}, file)
    return f"{stem} [{sha256(file.read_bytes()[0x100000:0x110000]).hexdigest()[:8]}]"


def _png(picture: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(np.asarray(picture, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _pixels(text: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def _photo(height: int = 512, width: int = 640) -> Any:
    """Smooth shapes with edges of several strengths."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 127 * np.sin(x / (3 + 4 * c)) * np.cos(y / (5 + 3 * c)) for c in range(3)]
    return np.dstack(waves).round().astype(np.uint8)


def test_version(client: TestClient):
    assert client.get("/controlnet/version").json() == {"version": 3}


def test_model_list_rescans_unless_told_not_to(client: TestClient, tmp_path: Path):
    assert client.get("/controlnet/model_list").json() == {"model_list": []}
    canny = _model(tmp_path, "control_v11p_sd15_canny")
    assert client.get("/controlnet/model_list?update=false").json() == {"model_list": []}
    assert client.get("/controlnet/model_list").json() == {"model_list": [canny]}
    assert client.get("/controlnet/model_list?update=0").json() == {"model_list": [canny]}


# The incumbent's test of `/controlnet/module_list` has exactly these sliders.
CANNY = {
    "model_free": False,
    "sliders": [
        {"name": "Resolution", "value": 512, "min": 64, "max": 2048, "step": 8},
        {"name": "Low Threshold", "value": 100, "min": 1, "max": 255, "step": 1},
        {"name": "High Threshold", "value": 200, "min": 1, "max": 255, "step": 1},
    ],
}


def test_module_list_by_name(client: TestClient):
    answer = client.get("/controlnet/module_list").json()
    assert list(answer) == ["module_list", "module_detail"]
    assert answer["module_list"] == [p.name for p in preprocess.everything()]
    assert answer["module_list"][0] == "none"
    assert list(answer["module_detail"]) == answer["module_list"]
    assert answer["module_detail"]["canny"] == CANNY
    assert answer["module_detail"]["invert"] == {"model_free": False, "sliders": []}


def test_a_preprocessor_that_cannot_run_is_listed_with_the_reason(client: TestClient):
    """pidinet's weights are for its user to place; none of that keeps others from the list."""
    detail = client.get("/controlnet/module_list").json()["module_detail"]
    assert "table5_pidinet.pth" in detail["pidinet"]["unavailable"]
    assert "put them into" in detail["pidinet"]["unavailable"]
    assert "mesh_graphormer is not installed" in detail["depth_hand_refiner"]["unavailable"]
    assert "unavailable" not in detail["canny"]
    asked = {"controlnet_module": "pidinet", "controlnet_input_images": [_png(_photo(8, 8))]}
    answer = client.post("/controlnet/detect", json=asked)
    assert answer.status_code == 422
    assert detail["pidinet"]["unavailable"] in answer.json()["detail"]


def test_the_first_slider_is_always_the_resolution(client: TestClient):
    """Clients take them by position; so tile_resample's own is the second."""
    assert client.get("/controlnet/module_list").json()["module_detail"]["tile_resample"]["sliders"] == [
        {"name": "Resolution", "value": 512, "min": 64, "max": 2048, "step": 8},
        {"name": "Down Sampling Rate", "value": 1, "min": 1, "max": 8, "step": 0.01},
    ]
    for detail in client.get("/controlnet/module_list").json()["module_detail"].values():
        assert [slider["name"] for slider in detail["sliders"][:1]] in ([], ["Resolution"])


@pytest.mark.parametrize("query", ["alias_names=true", "alias_name=1"])
def test_module_list_by_label(client: TestClient, query: str):
    answer = client.get(f"/controlnet/module_list?{query}").json()
    assert answer["module_list"] == [p.label for p in preprocess.everything()]
    assert list(answer["module_detail"]) == answer["module_list"]
    assert answer["module_detail"]["invert (from white bg & black line)"] == {
        "model_free": False,
        "sliders": [],
    }
    assert "invert" not in answer["module_list"]


def test_control_types(client: TestClient, tmp_path: Path):
    canny, depth = _model(tmp_path, "control_v11p_sd15_canny"), _model(tmp_path, "depth_anything")
    client.get("/controlnet/model_list")
    answer = client.get("/controlnet/control_types").json()
    assert list(answer) == ["control_types"]
    types = answer["control_types"]
    assert types["Canny"] == {
        "module_list": ["none", "canny", "invert (from white bg & black line)"],
        "model_list": ["None", canny],
        "default_option": "canny",
        "default_model": canny,
    }
    assert types["InstructP2P"] == {
        "module_list": ["none"],
        "model_list": ["None"],
        "default_option": "none",
        "default_model": "None",
    }
    assert types["All"]["module_list"] == [p.label for p in preprocess.everything()]
    assert types["All"]["model_list"] == ["None", canny, depth]
    assert (types["All"]["default_option"], types["All"]["default_model"]) == ("none", "None")
    assert next(iter(types)) == "All"


@pytest.mark.parametrize(("options", "count"), [({}, 3), ({"control_net_unit_count": 5}, 5)])
def test_settings(tmp_path: Path, options: dict[str, Any], count: int):
    """Auto-Photoshop reads the second name."""
    answer = _client(Host(tmp_path, options)).get("/controlnet/settings").json()
    assert answer == {"control_net_unit_count": count, "control_net_max_models_num": count}


def _detect(client: TestClient, **fields: Any) -> dict[str, Any]:
    response = client.post("/controlnet/detect", json=fields)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer.keys() - {"poses"} == {"images", "info"}
    assert answer["info"] == "Success"
    return answer


def test_detect_makes_opencvs_edges(client: TestClient):
    """A picture whose short side is the resolution is not resized."""
    photo = _photo()
    answer = _detect(client, controlnet_module="canny", controlnet_input_images=[_png(photo)])
    edges = cv2.Canny(photo, 100, 200)
    assert edges.any()
    assert np.array_equal(_pixels(answer["images"][0]), np.dstack([edges] * 3))


def test_detect_hands_out_the_poses_that_it_drew(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    """One for each picture, of the map's size; rendered, it is the map. Others than pose's have none."""
    seen: list[int] = []

    def nose(picture: Any, ask: preprocess.Ask) -> pose.Pose:
        seen.append(ask.resolution)
        body, nothing = np.zeros((18, 3)), np.empty((0, 3))
        body[0] = (ask.resolution // 3, 7, 1)
        one = pose.Person(body, nothing, nothing, nothing)
        return pose.Pose(2 * ask.resolution, ask.resolution, (one,))

    room = preprocess.poser(nose, name="nose", label="nose")
    monkeypatch.setitem(preprocess._shelf, "nose", room)
    wide = np.zeros((10, 20, 3), np.uint8)
    fields: dict[str, Any] = {
        "controlnet_input_images": [_png(wide), _png(wide + 1)],
        "controlnet_processor_res": 80,
    }
    answer = _detect(client, controlnet_module="nose", **fields)
    assert seen == [80, 80]
    assert [(one["canvas_width"], one["canvas_height"]) for one in answer["poses"]] == [(160, 80)] * 2
    body = answer["poses"][0]["people"][0]["pose_keypoints_2d"]
    assert body == [26 / 160, 7 / 80, 1.0] + 51 * [0.0]
    rendered = client.post("/controlnet/render_openpose_json", json=answer["poses"]).json()["images"]
    assert [_pixels(one).tolist() for one in rendered] == [_pixels(one).tolist() for one in answer["images"]]
    assert _pixels(rendered[0]).any()
    assert "poses" not in _detect(client, controlnet_module="canny", **fields)


def test_detect_hands_out_what_a_unit_takes_as_ipadapter_input(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    """peer, web_api/ipadapter_clip_api: "tensor", one for each picture, and no images."""

    def means(picture: Any, ask: preprocess.Ask) -> dict[str, torch.Tensor]:
        return {embeddings.POOLED: torch.from_numpy(picture).float().mean((0, 1))[None]}

    room = preprocess.Preprocessor("means", lambda picture, ask: picture, "means", embed=means)
    monkeypatch.setitem(preprocess._shelf, "means", room)
    photo = _photo()
    sent = {"controlnet_module": "means", "controlnet_input_images": [_png(photo), _png(255 - photo)]}
    answer = client.post("/controlnet/detect", json=sent).json()
    assert answer.keys() == {"tensor", "info"}
    read = embeddings.read(answer["tensor"])
    assert [one[embeddings.POOLED].tolist() for one in read] == [
        means(one, preprocess.Ask())[embeddings.POOLED].tolist() for one in (photo, 255 - photo)
    ]


WEBUIAPI = {  # mix1009/sdwebuiapi, controlnet_detect
    "controlnet_module": "canny",
    "controlnet_images": None,
    "controlnet_processor_res": 512,
    "controlnet_threshold_a": 64,
    "controlnet_threshold_b": 64,
}
FORGE = {  # Forge's clients send text where numbers belong
    "controlnet_module": "canny",
    "controlnet_input_images": None,
    "controlnet_processor_res": "512",
    "controlnet_threshold_a": "64",
    "controlnet_threshold_b": "64.0",
    "low_vram": "false",
    "controlnet_unknown": {"ignored": True},
}


@pytest.mark.parametrize("payload", [WEBUIAPI, FORGE], ids=["webuiapi", "forge"])
def test_detect_reads_what_clients_send(client: TestClient, payload: dict[str, Any]):
    photo = _photo()
    pictures = [_png(photo), "data:image/png;base64," + _png(255 - photo)]
    answer = _detect(client, **{k: pictures if k.endswith("images") else v for k, v in payload.items()})
    for text, picture in zip(answer["images"], (photo, 255 - photo), strict=True):
        assert np.array_equal(_pixels(text)[..., 0], cv2.Canny(picture, 64, 64))


@pytest.mark.parametrize("numbers", [(-1, -1, -1), (None, None, None), (-100, -100, 999)])
def test_detect_puts_defaults_in_place_of_what_is_missing_or_out_of_range(client: TestClient, numbers: Any):
    photo = _photo()
    names = ("controlnet_processor_res", "controlnet_threshold_a", "controlnet_threshold_b")
    fields = dict(zip(names, numbers, strict=True))
    answer = _detect(client, controlnet_module="canny", controlnet_input_images=[_png(photo)], **fields)
    assert np.array_equal(_pixels(answer["images"][0])[..., 0], cv2.Canny(photo, 100, 200))


@pytest.mark.parametrize("module", ["none", "None", None])
def test_detect_without_a_preprocessor_gives_the_picture_back(client: TestClient, module: str | None):
    photo = _photo(48, 80)
    answer = _detect(client, controlnet_module=module, controlnet_input_images=[_png(photo)])
    assert np.array_equal(_pixels(answer["images"][0]), photo)


@pytest.mark.parametrize("module", ["inpaint_only", "inpaint_global_harmonious"])
def test_an_inpaint_map_is_half_transparent_where_it_is_masked(client: TestClient, module: str):
    """Alpha is 255 - mask // 2; grey and RGBA masks do as well as RGB ones."""
    photo = _photo(16, 24)
    mask = np.zeros((16, 24), np.uint8)
    mask[4:8] = 255
    painted = np.dstack([np.full((16, 24, 3), 255), mask])
    masks = [_png(mask), _png(np.dstack([mask] * 3)), _png(painted)]
    answer = _detect(
        client, controlnet_module=module, controlnet_input_images=[_png(photo)] * 3, controlnet_masks=masks
    )
    assert len(answer["images"]) == 3
    for text in answer["images"]:
        shown = _pixels(text)
        assert np.array_equal(shown[..., :3], photo)
        assert np.array_equal(shown[..., 3], np.where(mask, 128, 255))


def test_a_mask_that_is_not_wanted_is_ignored_with_a_warning(
    client: TestClient, caplog: pytest.LogCaptureFixture
):
    fields = {"controlnet_module": "invert", "controlnet_input_images": [_png(_photo(8, 8))]}
    with caplog.at_level(logging.WARNING):
        with_mask = _detect(client, **fields, controlnet_masks=[_png(np.zeros((8, 8)))])
    assert "invert takes no mask" in caplog.text
    assert with_mask == _detect(client, **fields)


PHOTO = _png(_photo(16, 16))
MASK = _png(np.zeros((16, 16)))


def _huge(width: int, height: int) -> str:
    """A PNG of 57 bytes that announces this size."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    chunks = [
        len(c[4:]).to_bytes(4, "big") + c + crc32(c).to_bytes(4, "big") for c in (header, b"IDAT", b"IEND")
    ]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        (
            {"controlnet_module": "INVALID"},
            "Module not available. There is no preprocessor called 'INVALID'.",
        ),
        (
            {"controlnet_module": "cany"},
            "Module not available. There is no preprocessor called 'cany'. Did you mean",
        ),
        ({"controlnet_module": "clip_vision"}, "Module not supported"),
        ({"controlnet_module": "t2ia_style_clipvision"}, "Module not supported"),
        ({"controlnet_module": "revision_clipvision"}, "Module not supported"),
        ({"controlnet_module": "revision_ignore_prompt"}, "Module not supported"),
        ({"controlnet_module": "ip-adapter-auto"}, "Module not supported"),
        ({"controlnet_module": 3.5, "controlnet_input_images": [PHOTO]}, ""),
        ({}, "No image selected"),
        ({"controlnet_input_images": []}, "No image selected"),
        ({"controlnet_input_images": [""]}, "No image selected"),
        ({"controlnet_input_images": [None, ""]}, "No image selected"),
        ({"controlnet_input_images": [PHOTO, "", PHOTO]}, "Image 1: It is empty"),
        ({"controlnet_input_images": PHOTO}, "controlnet_input_images cannot be read"),
        ({"controlnet_input_images": {"image": PHOTO}}, "controlnet_input_images cannot be read"),
        ({"controlnet_input_images": [{"image": PHOTO}]}, "controlnet_input_images cannot be read"),
        ({"controlnet_input_images": [PHOTO] * 65}, "There are too many pictures. Send at most 64"),
        ({"controlnet_input_images": ["not base64!"]}, "Image 0: The picture is not base64"),
        ({"controlnet_input_images": [PHOTO, __file__]}, "Image 1: The picture is not base64"),
        ({"controlnet_input_images": ["file:///etc/passwd"]}, "Image 0: The picture is not base64"),
        ({"controlnet_input_images": ["http://127.0.0.1/a.png"]}, "Image 0: The picture is not base64"),
        ({"controlnet_input_images": ["AAAA"]}, "Image 0: The picture cannot be decoded"),
        ({"controlnet_input_images": [PHOTO[:60]]}, "Image 0: The picture cannot be decoded"),
        ({"controlnet_input_images": [_huge(9000, 9000)]}, "Image 0: The picture is too large"),
        ({"controlnet_input_images": [_huge(60000, 60000)]}, "Image 0: The picture is too large"),
        (
            {"controlnet_module": "canny", "controlnet_input_images": [_png(np.zeros((1, 2000, 3)))]},
            "Image 0: The picture is too narrow. With a short side of 512 px its map would be 1024000 px",
        ),
        (
            {"controlnet_module": "shuffle", "controlnet_input_images": [_png(np.zeros((1, 2000, 3)))]},
            "Image 0: The picture is too narrow",
        ),
        (
            {"controlnet_processor_res": "wide", "controlnet_input_images": [PHOTO]},
            "controlnet_processor_res",
        ),
        (
            {"controlnet_threshold_a": [1], "controlnet_input_images": [PHOTO]},
            "controlnet_threshold_a cannot",
        ),
        ({"low_vram": "maybe", "controlnet_input_images": [PHOTO]}, "low_vram cannot be read"),
        (
            {"controlnet_module": "inpaint_only", "controlnet_input_images": [PHOTO]},
            "Preprocessor inpaint_only requires `controlnet_masks` param.",
        ),
        (
            {
                "controlnet_module": "inpaint",
                "controlnet_input_images": [PHOTO] * 2,
                "controlnet_masks": [MASK, ""],
            },
            "Preprocessor inpaint requires `controlnet_masks` param. It got 1 for 2 pictures.",
        ),
        (
            {
                "controlnet_module": "inpaint",
                "controlnet_input_images": [PHOTO],
                "controlnet_masks": [_png(np.zeros((16, 17)))],
            },
            "Image 0: The mask is 17x16 but the picture is 16x16",
        ),
    ],
)
def test_detect_says_what_is_wrong(client: TestClient, fields: dict[str, Any], detail: str):
    response = client.post("/controlnet/detect", json=fields)
    assert response.status_code == 422
    assert list(response.json()) == ["detail"]
    assert response.json()["detail"].startswith(detail)
    assert response.json()["detail"].endswith((".", "?"))


def test_pictures_are_limited_together(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("controlstack.image.MAX_UNIT_PIXELS", 600)
    pictures = {"controlnet_input_images": [PHOTO] * 2}
    assert client.post("/controlnet/detect", json=pictures).status_code == 200
    response = client.post("/controlnet/detect", json={"controlnet_input_images": [PHOTO] * 3})
    assert response.status_code == 422
    assert response.json()["detail"].startswith("Image 2: The pictures are too large together")


@pytest.mark.parametrize("path", ["/controlnet/detect", "/controlnet/render_openpose_json"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"null", b'"text"', b"7", b"[7]", b"[" * 100_000, b'{"a": NaN}', b"[[]]"]
)
def test_any_other_body_is_refused(client: TestClient, path: str, body: bytes):
    response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert isinstance(response.json()["detail"], str)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e308", "-1e308"])
def test_numbers_without_bounds_become_the_default(client: TestClient, number: str):
    fields = {"controlnet_module": "canny", "controlnet_input_images": [PHOTO]}
    plain = _detect(client, **fields)
    body = json.dumps(fields)[:-1] + "".join(
        f', "controlnet_{name}": {number}' for name in ("processor_res", "threshold_a", "threshold_b")
    )
    headers = {"Content-Type": "application/json"}
    assert client.post("/controlnet/detect", content=body + "}", headers=headers).json() == plain


def test_a_query_that_cannot_be_read_is_a_sentence_too(client: TestClient):
    response = client.get("/controlnet/model_list?update=perhaps")
    assert response.status_code == 422
    assert response.json()["detail"].startswith("update cannot be read")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/controlnet/detect", {"controlnet_input_images": [PHOTO]}),
        ("/controlnet/render_openpose_json", [{"people": [], "canvas_width": 8, "canvas_height": 8}]),
    ],
)
def test_work_waits_for_the_hosts_queue_and_lists_do_not(
    host: Host, client: TestClient, path: str, body: object
):
    answers: list[int] = []
    with host.lock:
        waiting = threading.Thread(target=lambda: answers.append(client.post(path, json=body).status_code))
        waiting.start()
        for method, other in ROUTES[:5]:
            assert client.request(method, other).status_code == 200
        waiting.join(0.3)
        assert not answers
    waiting.join(30)
    assert answers == [200]
    assert host._lock.acquire(blocking=False)


def test_the_lock_is_given_back_after_a_mistake(host: Host, client: TestClient):
    client.post("/controlnet/detect", json={"controlnet_input_images": ["!"]})
    assert host._lock.acquire(blocking=False)


SECRETS = "anna:one,bernd:two:three"


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_is_behind_the_hosts_passwords(tmp_path: Path, method: str, path: str):
    client = _client(Host(tmp_path, api_auth=SECRETS))
    for login in (
        None,
        ("anna", "two"),
        ("anna", ""),
        ("", ""),
        ("anna:one,bernd", "two:three"),
        ("änna", "ö"),
    ):
        for body in (None, {"controlnet_input_images": [PHOTO]}):
            response = client.request(method, path, auth=login, json=body)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"].startswith("Basic")
            assert set(response.json()) == {"detail"}
    for login in (("anna", "one"), ("bernd", "two:three")):
        assert client.request(method, path, auth=login).status_code == (422 if method == "POST" else 200)


def test_these_are_all_the_routes(client: TestClient, host: Host):
    paths = client.get("/openapi.json").json()["paths"]
    assert [(m.upper(), path) for path, methods in paths.items() for m in methods] == ROUTES
    assert "security" not in json.dumps(paths)
    guarded = _client(Host(host.folder, api_auth=SECRETS)).get("/openapi.json").json()["paths"]
    assert all("security" in route for methods in guarded.values() for route in methods.values())


PERSON = {"pose_keypoints_2d": [10.0, 20.0, 1.0, *([0.0] * 51)]}


def test_poses_are_drawn(client: TestClient):
    """An animal too; a part may be null, as detectors send it."""
    animal = [[10.0, 3.0 * i + 5, 1.0] for i in range(17)]
    person = PERSON | {"hand_left_keypoints_2d": None, "face_keypoints_2d": None}
    sent = [
        {"people": [person], "canvas_width": 64, "canvas_height": 48},
        {"people": [], "animals": [animal], "canvas_width": 32, "canvas_height": 64},
    ]
    response = client.post("/controlnet/render_openpose_json", json=sent)
    assert response.status_code == 200
    assert set(response.json()) == {"images", "info"}
    assert response.json()["info"] == "Success"
    first, second = (_pixels(text) for text in response.json()["images"])
    assert first.shape == (48, 64, 3)
    assert first[20, 10].tolist() == [255, 0, 0]
    assert second.shape == (64, 32, 3)
    assert second.any()


def test_no_pose_is_no_mistake(client: TestClient):
    response = client.post("/controlnet/render_openpose_json", json=[])
    assert (response.status_code, response.json()) == (200, {"info": "No pose data detected."})


CANVAS = {"people": [PERSON], "canvas_width": 64, "canvas_height": 48}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ([CANVAS, {"people": [PERSON]}], "Pose 1: canvas_width has to be a whole number from 1 to 8192"),
        ([CANVAS | {"canvas_height": 10**9}], "Pose 0: canvas_height has to be"),
        ([CANVAS | {"people": [{"pose": []}]}], "Pose 0: people[0] has no pose_keypoints_2d"),
        ([CANVAS | {"people": [{"pose_keypoints_2d": [1.0]}]}], "Pose 0: people[0].pose_keypoints_2d cannot"),
        ([CANVAS] * 65, "There are too many poses. Send at most 64"),
        ([CANVAS | {"canvas_width": 8192, "canvas_height": 8192}] * 5, "The canvases are too large together"),
        (CANVAS, "The request cannot be read"),
    ],
)
def test_a_pose_that_cannot_be_drawn_is_named(client: TestClient, body: object, detail: str):
    response = client.post("/controlnet/render_openpose_json", json=body)
    assert response.status_code == 422
    assert response.json()["detail"].startswith(detail)


RECORDED = Path(__file__).with_name("maps_of_the_incumbent.txt").read_text("utf-8").splitlines()


@pytest.mark.skipif(not cv2.__version__.startswith("5.0"), reason="other versions of OpenCV round otherwise")
@pytest.mark.parametrize("module", sorted({line.split()[0] for line in RECORDED}))
def test_maps_are_the_incumbents(module: str, client: TestClient):
    """Digests of what sd-webui-controlnet 56cec5b draws of three photographs, its sliders at their ends.

    "module resolution a b photograph digest" a line; OpenCV 5.0.0, NumPy 2.4.6; its random
    generator starts from 0.
    """
    for name, resolution, a, b, photograph, digest in map(str.split, RECORDED):
        if name == module:
            answer = _detect(
                client,
                controlnet_module=name,
                controlnet_input_images=[_png(getattr(skimage.data, photograph)())],
                controlnet_processor_res=resolution,
                controlnet_threshold_a=a,
                controlnet_threshold_b=b,
            )
            drawn = _pixels(answer["images"][0])
            same = blake2b(drawn.tobytes(), digest_size=8).hexdigest() == digest
            assert same, (resolution, a, b, photograph)


def test_memory_is_told_and_cleared(client: TestClient):
    picture = np.zeros((64, 64, 3), np.uint8)
    empty = {"maps": 0, "embeddings": 0, "networks": 0, "on_device": 0}
    assert client.get("/controlnet/memory").json() == empty
    client.post("/controlnet/detect", json={"controlnet_input_images": [_png(picture)]})
    assert client.get("/controlnet/memory").json() == empty | {"maps": picture.nbytes}
    assert client.delete("/controlnet/memory").json() == empty
    assert client.get("/controlnet/memory").json() == empty


@pytest.mark.parametrize("low_vram", [True, False])
def test_low_vram_leaves_no_network(
    low_vram: bool, host: Host, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = downloads.File("nobody/nothing", "tiny.pth", "tiny", "MIT")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "tiny.pth")
    host.cache.networks.store = downloads.Store([tmp_path], offline=True)

    def run(image: Array, ask: Ask) -> Array:
        ask.networks.get(file, lambda state: filled(torch.nn.Linear(2, 2), state))
        return image.copy()

    preprocess.find("none")  # so that the shelf is full before it is changed
    monkeypatch.setattr(preprocess, "_shelf", dict(preprocess._shelf))
    preprocess.register(Preprocessor(name="tiny", label="tiny", run=run))
    picture = _png(_photo(64, 64))
    _detect(client, controlnet_module="tiny", controlnet_input_images=[picture], low_vram=low_vram)
    assert client.get("/controlnet/memory").json()["networks"] == (0 if low_vram else 4 * (4 + 2))


def test_preprocessors_run_where_the_host_says(tmp_path: Path):
    class Elsewhere(Host):
        def device(self) -> torch.device:
            return torch.device("meta")

    assert Elsewhere(tmp_path).cache.networks.device == torch.device("meta")


@pytest.fixture(scope="module")
def http_api() -> ModuleType:
    spec = importlib.util.spec_from_file_location("http_api", DOCS / "http_api.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_documents_are_up_to_date(http_api: ModuleType):
    """`python docs/http_api.py` writes them. Another FastAPI may word the same schema differently."""
    recorded = json.loads((DOCS / "openapi.json").read_text("utf-8"))
    assert (DOCS / "http-api.md").read_text("utf-8") == http_api.page(recorded)
    made = http_api.schema()
    if made["x-fastapi"] == recorded["x-fastapi"]:
        assert made == recorded
    assert _names(made) == _names(recorded)


def _names(openapi: dict[str, Any]) -> Any:
    """What clients depend on in any FastAPI: operations, their parameters, and the fields of bodies."""
    operations = {
        (path, method): (route["operationId"], [one["name"] for one in route.get("parameters", [])])
        for path, methods in openapi["paths"].items()
        for method, route in methods.items()
    }
    return operations, list(openapi["components"]["schemas"]["DetectRequest"]["properties"])


def test_the_examples_in_the_documents_are_true(client: TestClient, http_api: ModuleType):
    paths = http_api.schema()["paths"]

    def example(method: str, path: str) -> Any:
        return paths[path][method]["responses"]["200"]["content"]["application/json"]["example"]

    assert example("get", "/controlnet/version") == client.get("/controlnet/version").json()
    assert example("get", "/controlnet/settings") == client.get("/controlnet/settings").json()
    assert example("get", "/controlnet/module_list")["module_detail"]["canny"] == CANNY
    body = paths["/controlnet/render_openpose_json"]["post"]["requestBody"]["content"]["application/json"]
    drawn = client.post("/controlnet/render_openpose_json", json=body["example"]).json()
    assert set(drawn) == set(example("post", "/controlnet/render_openpose_json"))
    assert _pixels(drawn["images"][0]).any()
