"""What a running host answers to requests that are mistaken or meant to harm. `BAD` is the table.

`CONTROLSTACK_WRITE_DOCS=1` writes it with the answers to docs/bad-requests.md.
"""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import embedded_server
import httpx
import nets
import numpy as np
import pytest
import torch
from control_server import PHOTO, Host, difference, job, pixels, png, serving, unit
from PIL import Image

DOCUMENT = Path(__file__).parents[2] / "docs" / "bad-requests.md"
TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
DETECT, POSES = "/controlnet/detect", "/controlnet/render_openpose_json"
NAN, INFINITY = float("nan"), float("inf")
CONTROLLED = "The picture is made, with control."


class Bad(NamedTuple):
    """A request, and a part of the answer's sentence or CONTROLLED.

    body: a text or bytes are sent as they are, None asks with GET
    unit: the unit that the sentence names
    """

    name: str
    route: str
    body: Any
    says: str
    content_type: str = "application/json"
    unit: int | None = None


def asks(name: str, says: str, **fields: Any) -> Bad:
    """A job with one unit, in which only `fields` are wrong."""
    return Bad(name, TXT2IMG, job(unit(**fields)), says, unit=0)


def hosts(name: str, says: str, *units: Any, **fields: Any) -> Bad:
    """A job with something wrong around its units."""
    return Bad(name, IMG2IMG if "init_images" in fields else TXT2IMG, job(*units or [unit()], **fields), says)


def detects(name: str, says: str, **fields: Any) -> Bad:
    return Bad(
        name, DETECT, {"controlnet_module": "canny", "controlnet_input_images": [PHOTO], **fields}, says
    )


def poses(name: str, says: str, *people: Any, **fields: Any) -> Bad:
    return Bad(
        name, POSES, [{"people": list(people), "canvas_width": 64, "canvas_height": 64, **fields}], says
    )


def text(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode()


def nested(value: Any, depth: int = 900) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def announcing(side: int) -> str:
    """A PNG of a hundred bytes that says it is this large."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return text(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


def saved_as(kind: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, kind)
    return text(file.getvalue())


class Payload:
    """Unpickling it makes a file: whoever loads pickles without care runs a stranger's program."""

    file = Path("executed")

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def claiming(kind: str, place: bytes | int) -> str:
    """A small GIF or JPEG whose header says that it is 65535 px wide and high."""
    data = bytearray(base64.b64decode(saved_as(kind)))
    start = place if isinstance(place, int) else data.index(place) + 5
    data[start : start + 4] = b"\xff\xff\xff\xff"
    return text(data)


SMALL = png(np.zeros((9, 9), np.uint8))
ONE_POINT_SHORT = {"pose_keypoints_2d": [1] * 51}
HTML = text(b"<html><body>404</body></html>")
SVG = text(b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>')

OF_UNITS = [
    # The model
    asks("an unknown model", "There is no control model called 'nothing like it'", model="nothing like it"),
    asks("no model", "It is enabled but has no model", model=None),
    asks("a model that is a number", "model is 5. It has to be text", model=5),
    asks("a model that is a list", "model is ['net0']. It has to be text", model=["net0"]),
    asks("a model up the tree", "There is no control model called '../../secret'", model="../../secret"),
    asks("a model by a path up the tree, of a name that is listed", CONTROLLED, model="../../../net0"),
    asks("a model by an absolute path", "called '/etc/passwd'", model="/etc/passwd"),
    asks("a model on another machine", "There is no control model called", model=r"\\host\share\secret.pth"),
    asks("a model with a null byte", r"called 'net0\x00.pth'", model="net0\0.pth"),
    asks("a model that is half a character", r"called '\ud800'", model="\ud800"),
    asks("a model's name of a megabyte", "It has 1000000 letters", model="m" * 1_000_000),
    asks("a model for another base", "'sdxl' does not fit the checkpoint", model="sdxl"),
    asks("a file that is no control model", "lora", model="lora"),
    asks("a file that is no model", "broken.safetensors cannot be read", model="broken"),
    asks("a file that is a web page", "It is a web page", model="page"),
    asks("an empty file", "empty.pt cannot be read", model="empty"),
    asks("half a file", "half.safetensors cannot be read", model="half"),
    asks("a pickle with a program", "could run a program", model="pickle"),
    asks("a pickle with a program, zipped", "could run a program", model="zipped"),
    # The preprocessor
    asks("an unknown preprocessor", "no preprocessor called 'cany'. Did you mean canny?", module="cany"),
    asks("a preprocessor that is an object", "module is {}. It has to be text", module={}),
    asks("a preprocessor that is a path", "no preprocessor called '../canny.py'", module="../canny.py"),
    asks("a preprocessor with a null byte", r"called 'canny\x00'", module="canny\0"),
    asks("a preprocessor's name of a megabyte", "It has 1000000 letters", module="m" * 1_000_000),
    # Numbers
    asks("weight: not a number", "weight is nan. It has to be a number from 0 to 2", weight=NAN),
    asks("weight: infinite", "weight is inf", weight=INFINITY),
    asks("weight: infinite once it is read", "weight is '1e999'", weight="1e999"),
    asks("weight: negative", "weight is -1", weight=-1),
    asks("weight: too large", "weight is 2.5", weight=2.5),
    asks("weight: 4000 digits", "weight is 1000", weight=10**4000),
    asks("weight: a word", "weight is 'strong'", weight="strong"),
    asks("weight: a boolean", "weight is True", weight=True),
    asks("weight: a picture", "weight is 'iVBORw0KGgoA...", weight=PHOTO),
    asks("guidance_start: not a number", "guidance_start is nan", guidance_start=NAN),
    asks("guidance_start: negative", "guidance_start is -0.1", guidance_start=-0.1),
    asks("guidance_end: beyond the end", "guidance_end is 1.5", guidance_end=1.5),
    asks("guidance_end: null and zero in a list", "guidance_end is [None, 0]", guidance_end=[None, 0]),
    asks("start after end", "That is after guidance_end", guidance_start=0.6, guidance_end=0.4),
    asks("two ends", "Both are names of the same field", guidance=0.4, guidance_end=0.6),
    asks(
        "processor_res: infinite",
        "processor_res is inf. It has to be a finite number",
        processor_res=INFINITY,
    ),
    asks("processor_res: a word", "processor_res is 'big'", processor_res="big"),
    asks("processor_res: gigantic, which means the default", CONTROLLED, processor_res=10**30),
    asks("processor_res: negative, which means the default", CONTROLLED, processor_res=-512),
    asks("threshold_a: not a number", "threshold_a is nan", threshold_a=NAN),
    asks("threshold_a: gigantic, which means the default", CONTROLLED, threshold_a=1e300),
    asks("threshold_b: an object", "threshold_b is {'a': 1}", threshold_b={"a": 1}),
    asks("layers: one too few", "has 12 numbers. This control model takes 13", advanced_weighting=[1] * 12),
    asks("layers: a hundred thousand", "has 100000 numbers", advanced_weighting=[1] * 100_000),
    asks("layers: not a number", "advanced_weighting[1] is nan", advanced_weighting=[1, NAN]),
    asks("layers: gigantic", "from -10 to 10", advanced_weighting=[1e38] * 13),
    asks(
        "layers: a text that never closes", "It has to be a list of numbers", advanced_weighting="[" * 100_000
    ),
    # Choices and switches
    asks("control_mode: unknown", "control_mode is 'Strict'. There is no such choice", control_mode="Strict"),
    asks("control_mode: a number too far", "control_mode is 3", control_mode=3),
    asks("resize_mode: negative", "resize_mode is -1", resize_mode=-1),
    asks("resize_mode: not a number", "resize_mode is nan", resize_mode=NAN),
    asks(
        "hr_option: two at once", "hr_option is ['Both', 'Low res only']", hr_option=["Both", "Low res only"]
    ),
    asks("union_control_type: unknown", "union_control_type is 'Smell'", union_control_type="Smell"),
    asks("pulid_mode: nested nine hundred times", "pulid_mode is [[[[[[[...]]]]]]]", pulid_mode=nested(0)),
    asks("enabled: maybe", "enabled is 'maybe'. It is either on or off", enabled="maybe"),
    asks("low_vram: nested nine hundred times", "low_vram is [[[[[[[...]]]]]]]", low_vram=nested(0)),
    asks("pixel_perfect: 5", "pixel_perfect is 5", pixel_perfect=5),
    asks("save_detected_map: an object", "save_detected_map is {'a': 1}", save_detected_map={"a": 1}),
    # Pictures
    asks("no picture", "It is enabled but has no picture", image=None),
    asks("an empty object for a picture", "It is enabled but has no picture", image={}),
    asks("a number for a picture", "A picture cannot be a int", image=5),
    asks("half a picture", "The picture cannot be decoded", image=PHOTO[:4000]),
    asks("a picture with a hole", "The picture cannot be decoded", image=PHOTO[:200] + "AAAA" * 99),
    asks("a picture that is a file's path", "Send the picture itself as base64", image="/etc/passwd"),
    asks("a picture that is a file's address", "File paths and web addresses", image="file:///etc/passwd"),
    asks("a picture on the web", "File paths and web addresses", image="http://127.0.0.1:1/picture.png"),
    asks("a data URI without data", "The picture cannot be decoded", image="data:image/png;base64,"),
    asks("a data URI that is no base64", "The picture is not base64", image="data:text/html,<b>hello</b>"),
    asks("a web page that says it is a PNG", "cannot be decoded", image="data:image/png;base64," + HTML),
    asks("an SVG that reads a file", "The picture cannot be decoded", image=SVG),
    asks("a TIFF", "none of PNG, JPEG, WEBP, BMP, GIF", image=saved_as("TIFF")),
    asks("an EPS, which is a program", "none of PNG, JPEG, WEBP, BMP, GIF", image=saved_as("EPS")),
    asks("a PDF", "none of PNG, JPEG, WEBP, BMP, GIF", image=saved_as("PDF")),
    asks("half a GIF", "The picture cannot be decoded", image=saved_as("GIF")[:40]),
    asks("a picture that announces 60000 x 60000", "The picture is too large", image=announcing(60_000)),
    asks("a GIF that announces 65535 x 65535", "The picture is too large", image=claiming("GIF", 6)),
    asks(
        "a JPEG that announces 65535 x 65535", "The picture is too large", image=claiming("JPEG", b"\xff\xc0")
    ),
    asks("a picture of nothing", "The picture cannot be decoded", image=announcing(0)),
    asks(
        "10 kB that unpack to 9000 x 9000",
        "It has 9000x9000 pixels",
        image=png(np.zeros((9000, 9000), np.uint8)),
    ),
    asks("a strip 4000 times as long as wide", "too narrow", image=png(np.zeros((1, 4000), np.uint8))),
    asks("three pictures", "It got 3 pictures", image=[PHOTO] * 3),
    asks("a thousand and one pictures", "Send at most 1000", image=[[SMALL, None]] * 1001),
    asks("a picture nested nine hundred times", "A picture cannot be a list", image=nested(PHOTO)),
    asks("a picture under two names", "Both are names of the same field", input_image=SMALL),
    asks("a mask of another size", "The mask is 9x9 but the picture is 256x256", mask=SMALL),
    asks("a mask that is none", "The mask is not base64", mask="<mask>"),
    asks("a mask without a picture", "A mask came without a picture", image={"image": None, "mask": SMALL}),
    asks("a region that is a number", "A region mask cannot be a int", effective_region_mask=5),
    asks("a region that is a path", "The region mask cannot be decoded", effective_region_mask="/etc/passwd"),
    asks("a region that is a web page", "The region mask cannot be decoded", effective_region_mask=HTML),
    # What belongs to the page, and embeddings
    asks(
        "folders to read and to write",
        CONTROLLED,
        input_mode="batch",
        batch_images="FOLDER",
        batch_mask_dir="FOLDER",
        output_dir="FOLDER",
        batch_image_dir="FOLDER",
    ),
    asks("a picture's path among the page's fields", CONTROLLED, generated_image="FOLDER/secret.png"),
    asks("an embedding that is a pickle", "It is no base64 of a tensor file", ipadapter_input="PICKLE"),
    asks("embeddings of any kind", "It holds no tensors", ipadapter_input=[1, {}, "PICKLE"]),
    asks("unknown fields", CONTROLLED, guess_what=1, __class__="os.system"),
    # Things that are no unit, and too many
    *(
        Bad(f"{what} for a unit", TXT2IMG, job(value), "A ControlNet unit cannot be made of", unit=0)
        for what, value in {
            "a text": "canny",
            "a number": 5,
            "null": None,
            "a list": ["canny", "net0"],
            "a list nested nine hundred times": nested(0),
        }.items()
    ),
    hosts("the flat list of the oldest clients", "cannot be made of True", True, "canny", "net0", 1.0, PHOTO),
    hosts("one of two units is wrong", "ControlNet unit 1: weight is 9", unit(), unit(weight=9)),
    hosts("eleven units", "At most 10 can be stacked", *[unit()] * 11),
]
OF_HOSTS = [
    hosts("an object for the list of units", "no list", alwayson_scripts={"ControlNet": {"args": unit()}}),
    hosts("a text for the list of units", "no list", alwayson_scripts={"ControlNet": {"args": "canny"}}),
    hosts("a list for the script", "valid dictionary", alwayson_scripts={"ControlNet": [unit()]}),
    hosts("a list of scripts", "valid dictionary", alwayson_scripts=[unit()]),
    hosts(
        "another script",
        "Script 'controlnett' not found",
        alwayson_scripts={"controlnett": {"args": [unit()]}},
    ),
    # The host's own fields
    hosts("width: a billion", "width is 1000000000", width=10**9),
    hosts("width: nothing", "width is 0", width=0),
    hosts("height: negative", "height is -64", height=-64),
    hosts("height: a word", "valid integer", height="tall"),
    hosts("steps: a million", "steps is 1000000", steps=10**6),
    hosts("steps: none", "steps is 0", steps=0),
    hosts("batch_size: a million", "batch_size is 1000000", batch_size=10**6),
    hosts("n_iter: none", "n_iter is 0", n_iter=0),
    hosts("cfg_scale: not a number", "cfg_scale is nan", cfg_scale=NAN),
    hosts("cfg_scale: gigantic", "cfg_scale is 1e+300", cfg_scale=1e300),
    hosts("hr_scale: not a number", "hr_scale is nan", enable_hr=True, hr_scale=NAN),
    hosts("an unknown upscaler", "could not find upscaler", enable_hr=True, hr_upscaler="nope"),
    hosts("an unknown sampler", "Sampler not found", sampler_name="nope"),
    hosts("an unknown script", "Script 'nope' not found", script_name="nope"),
    hosts("a prompt that is a number", "valid string", prompt=5),
    hosts("img2img without a picture", "Init image not found", init_images=[]),
    hosts("img2img with half a picture", "cannot be decoded", init_images=[PHOTO[:4000]]),
    hosts("img2img with a path", "Send the picture itself as base64", init_images=["/etc/passwd"]),
    hosts("img2img with 60000 x 60000", "too large", init_images=[announcing(60_000)]),
    hosts("denoising_strength: 9", "denoising_strength is 9", init_images=[PHOTO], denoising_strength=9),
    hosts(
        "mask_blur: a billion", "mask_blur_x is 1000000000", init_images=[PHOTO], mask=PHOTO, mask_blur=10**9
    ),
    Bad("no body", TXT2IMG, "", "Field required"),
    Bad("JSON that breaks off", TXT2IMG, '{"prompt": "a', "JSON decode error"),
    Bad("JSON that is a list", TXT2IMG, "[]", "valid dictionary"),
    Bad("JSON nested a hundred thousand times", TXT2IMG, '{"a":' * 100_000, "error parsing the body"),
    Bad("a number of 6000 digits", TXT2IMG, '{"steps": ' + "9" * 6000 + "}", "error parsing the body"),
    Bad("JSON that says it is text", TXT2IMG, json.dumps(job(unit())), "valid dictionary", "text/plain"),
    Bad("a form", TXT2IMG, "prompt=a", "valid dictionary", "application/x-www-form-urlencoded"),
]
OF_ROUTES = [
    # Detect
    detects(
        "detect: an unknown preprocessor", "There is no preprocessor called 'cany'", controlnet_module="cany"
    ),
    detects("detect: a name of a megabyte", "at most 1000 characters", controlnet_module="m" * 1_000_000),
    detects("detect: what draws nothing", "Module not supported", controlnet_module="clip_vision"),
    detects("detect: no picture", "No image selected", controlnet_input_images=[]),
    detects(
        "detect: a text for the list", "controlnet_input_images cannot be read", controlnet_input_images=PHOTO
    ),
    detects("detect: a path", "Image 0: The picture", controlnet_input_images=["/etc/passwd"]),
    detects(
        "detect: a second picture that is empty", "Image 1: It is empty", controlnet_input_images=[PHOTO, ""]
    ),
    detects(
        "detect: 60000 x 60000",
        "Image 0: The picture is too large",
        controlnet_input_images=[announcing(60_000)],
    ),
    detects("detect: 65 pictures", "Send at most 64 at a time", controlnet_input_images=[SMALL] * 65),
    detects(
        "detect: a word for a number", "controlnet_processor_res cannot be read", controlnet_processor_res="x"
    ),
    detects("detect: no mask", "requires `controlnet_masks` param", controlnet_module="inpaint_only"),
    detects(
        "detect: a mask of another size",
        "Image 0: The mask is 9x9",
        controlnet_module="inpaint_only",
        controlnet_masks=[SMALL],
    ),
    Bad("detect: no body", DETECT, "", "The request cannot be read"),
    Bad("detect: JSON that breaks off", DETECT, "{", "The request cannot be read"),
    Bad("detect: bytes that are no text", DETECT, b"\xff\xfe\x00", "error parsing the body"),
    Bad("detect: a form", DETECT, "a=b", "The request cannot be read", "application/x-www-form-urlencoded"),
    # Poses
    Bad("poses: an object for the list", POSES, {"people": []}, "The request cannot be read"),
    Bad("poses: a number for a pose", POSES, [5], "The request cannot be read"),
    Bad("poses: neither people nor animals", POSES, [{}], "Pose 0: The pose has neither people nor animals"),
    Bad(
        "poses: 65 of them",
        POSES,
        [{"people": [], "canvas_width": 8, "canvas_height": 8}] * 65,
        "too many poses",
    ),
    Bad(
        "poses: five canvases of 8192 x 8192",
        POSES,
        [{"people": [], "canvas_width": 8192, "canvas_height": 8192}] * 5,
        "too large together",
    ),
    poses("poses: a canvas of a billion", "a whole number from 1 to 8192", canvas_width=10**9),
    poses("poses: a canvas that is not a number", "canvas_height has to be", canvas_height=NAN),
    poses("poses: 101 people", "There are 101 people", *[{"pose_keypoints_2d": None}] * 101),
    poses("poses: a point too few", "It takes 18 points", ONE_POINT_SHORT),
    poses("poses: points that are words", "cannot be read", {"pose_keypoints_2d": ["x"] * 54}),
    poses("poses: points nested nine hundred times", "cannot be read", {"pose_keypoints_2d": nested(0)}),
    poses("poses: points that are not numbers", "cannot be read", {"pose_keypoints_2d": [NAN] * 54}),
    poses("poses: points beyond the horizon", "far outside the canvas", {"pose_keypoints_2d": [1e300] * 54}),
    # Queries
    Bad(
        "a query that is neither on nor off",
        "/controlnet/model_list?update=maybe",
        None,
        "update cannot be read",
    ),
]
BAD = [*OF_UNITS, *OF_HOSTS, *OF_ROUTES]
"""What units, what the host itself, and what the routes of this extension have to refuse."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("host")


@pytest.fixture(scope="module")
def victim(folder: Path) -> Path:
    """A folder that no request may touch."""
    victim = folder / "victim"
    victim.mkdir()
    Image.new("RGB", (256, 256), "red").save(victim / "secret.png")
    return victim


@pytest.fixture(scope="module")
def host(folder: Path, victim: Path) -> Iterator[Host]:
    (folder / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "temporary"))
        patch.setattr(Payload, "file", victim / "executed")
        write_bad_models(folder / "models" / "ControlNet")
        with serving(folder) as host:
            yield host


def write_bad_models(models: Path) -> None:
    models.mkdir(parents=True, exist_ok=True)
    nets.save(models / "sdxl.safetensors", nets.controlnet(nets.SDXL).state_dict())
    nets.save(models / "lora.safetensors", {"lora_unet_mid.lora_up.weight": torch.zeros(4, 4)})
    (models / "broken.safetensors").write_bytes(b"not a model")
    (models / "page.safetensors").write_bytes(base64.b64decode(HTML))
    (models / "half.safetensors").write_bytes((models / "sdxl.safetensors").read_bytes()[:5000])
    (models / "empty.pt").touch()
    (models / "pickle.pth").write_bytes(pickle.dumps({"weight": Payload()}))
    torch.save({"weight": Payload()}, models / "zipped.pth")


class Before(NamedTuple):
    plain: Any
    controlled: list[Any]
    files: dict[str, int]


def files(folder: Path) -> dict[str, int]:
    """All files and folders but the pictures and the log, with the time of their last change."""
    kept = (
        path for path in folder.rglob("*") if path.relative_to(folder).parts[0] not in ("outputs", "log.txt")
    )
    return {str(path): path.stat().st_mtime_ns for path in kept if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def before(host: Host, folder: Path) -> Before:
    return Before(host.pictures()[0], host.pictures(unit()), files(folder))


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[Bad, int, str]]:
    return {}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_it_is_said(host: Host, before: Before, victim: Path, answers: dict[str, Any], bad: Bad) -> None:
    status, said = answered(host, before, victim, bad)
    assert host.watch()["hooks"] == 0
    answers[bad.name] = bad, status, told(said, host.folder)


def answered(host: Host, before: Before, victim: Path, bad: Bad) -> tuple[int, str]:
    """Send a request, check that its answer is the sentence or the picture; return the status and which."""
    host.watch()
    answer = send(host, bad, victim)
    calls = host.watch()["network_calls"]
    if bad.says == CONTROLLED:
        assert answer.status_code == 200, answer.text
        assert calls == 2
        shown = [pixels(picture) for picture in answer.json()["images"]]
        assert len(shown) == len(before.controlled)
        assert all(map(np.array_equal, shown, before.controlled))
        return answer.status_code, CONTROLLED
    assert answer.status_code >= 400
    assert "images" not in answer.json()
    assert calls == 0
    said = sentence(answer)
    assert bad.says in said
    assert bad.unit is None or said.startswith(f"ControlNet unit {bad.unit}: ")
    assert not re.search("Traceback|object at 0x|NoneType|attribute|unhashable|out of range|Errno", said)
    assert len(said) < 1500
    return answer.status_code, said


def send(host: Host, bad: Bad, victim: Path) -> httpx.Response:
    if bad.body is None:
        return host.session.get(bad.route)
    body = bad.body if isinstance(bad.body, str | bytes) else json.dumps(bad.body)
    if isinstance(body, str):
        payload = text(pickle.dumps(Payload()))
        body = body.replace("FOLDER", str(victim)).replace("PICKLE", payload).encode()
    return host.session.post(bad.route, content=body, headers={"Content-Type": bad.content_type})


def sentence(answer: httpx.Response) -> str:
    """What the answer says: in `detail`, where FastAPI lists faults, or in `errors`, where A1111 does, or in
    `message`, where Forge does."""
    body = answer.json()
    said = body.get("detail") or body.get("errors") or body["message"]
    if isinstance(said, str):
        return said
    return " ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}." for fault in said)


def told(said: str, folder: Path) -> str:
    """As the documentation shows it: without what differs from one run to the next."""
    return re.sub(r"\[[0-9a-f]{8}\]", "[hash]", said.replace(str(folder), "…"))


def test_a_mask_of_another_size_than_the_init_picture_is_fitted_as_the_host_fits_it(host: Host) -> None:
    """Both are stretched to the job, here by PIL, or the same px are cut out of both.

    In a map that is shown the mask is 255 - mask // 2 in alpha.
    """
    photo, mask = pixels(PHOTO), np.zeros((100, 180), np.uint8)
    mask[40:90, 100:150] = 255
    inpaint = unit(module="inpaint_only", image=None)
    asked = dict(route="img2img", init_images=[PHOTO], mask=png(mask), mask_blur=0, denoising_strength=0.7)
    _, whole = host.pictures(inpaint, **asked, inpaint_full_res=False)
    _, cut = host.pictures(inpaint, **asked, inpaint_full_res=True)
    assert np.array_equal(whole[..., 3], 255 - stretched(mask) // 2)
    assert difference(whole[..., :3], stretched(photo)) < 1
    assert np.array_equal(cut[..., 3], np.full((64, 64), 128))
    assert difference(cut[..., :3], stretched(photo[40:90, 100:150])) < 1


def stretched(picture: Any) -> Any:
    return np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.LANCZOS))


def test_after_all_of_them_nothing_has_changed(
    host: Host, before: Before, folder: Path, answers: dict[str, tuple[Bad, int, str]]
) -> None:
    assert np.array_equal(host.pictures()[0], before.plain)
    assert all(map(np.array_equal, host.pictures(unit()), before.controlled))
    assert host.watch()["hooks"] == 0
    assert files(folder) == before.files
    assert not (folder / "victim" / "executed").exists()
    if os.environ.get("CONTROLSTACK_WRITE_DOCS"):
        DOCUMENT.write_text(document(list(answers.values())), encoding="utf-8")


def document(answers: list[tuple[Bad, int, str]]) -> str:
    rows = [
        f"| {bad.name} | `{bad.route.partition('?')[0]}` | {status} | {said.replace('|', '&#124;')} |"
        for bad, status, said in answers
    ]
    return "\n".join([_TOP, *rows, ""])


_TOP = f"""# Bad requests and their answers

What the embedded host answered to each request of the table in `tests/hosts/test_hostile_requests.py`, which
wrote this file. None is answered with a picture that lacks its control. "{CONTROLLED}"
means that what was wrong has no meaning for the job: the picture is the same to the bit as without it.

| request | route | status | answer |
|---|---|---|---|"""


def test_the_document_shows_the_table() -> None:
    """`CONTROLSTACK_WRITE_DOCS=1` writes it; what other packages say in it changes with their versions."""
    rows = [line.split(" | ") for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith("| ")]
    shown = [(row[0].removeprefix("| "), row[1].strip("`")) for row in rows[1:]]
    assert shown == [(bad.name, bad.route.partition("?")[0]) for bad in BAD]
    assert len(shown) == len(set(shown)) >= 60


def test_strangers_are_refused_everywhere(tmp_path: Path) -> None:
    with embedded_server.running(tmp_path, page=True, login="somebody:secret") as client:
        known = httpx.Client(base_url=client.address, auth=("somebody", "secret"), timeout=60)
        routes = [
            (method.upper(), path)
            for path, methods in known.get("/openapi.json").json()["paths"].items()
            for method in methods
        ]
        assert {path for _, path in routes} >= {TXT2IMG, IMG2IMG, DETECT, POSES, "/sdapi/v1/options"}
        for auth in (None, ("somebody", "wrong"), ("", ""), ("somebody:secret", ""), ("ä", "ö")):
            stranger = httpx.Client(base_url=client.address, auth=auth, timeout=60)
            for method, path in [
                *routes,
                ("GET", "/"),
                ("GET", "/outputs/00000-1.png"),
                ("GET", "/openapi.json"),
            ]:
                answer = stranger.request(method, path, content=b"{}")
                assert answer.status_code == 401, (auth, method, path)
                assert "username or password" in answer.text or "Not authenticated" in answer.text
        for path in ("/sdapi/v1/progress", "/controlnet/version", "/controlnet/model_list"):
            assert known.get(path).status_code == 200
        assert known.post(DETECT, json={"controlnet_input_images": [SMALL]}).status_code == 200
