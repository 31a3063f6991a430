"""Every family of the registry in a real WebUI, once. `webui_server.py` says what it needs.

Families for other bases than SD1 want a checkpoint of that kind beside the first, of the same width and with
"inpaint" or "xl" in its name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from control_server import PHOTO, difference, png
from numpy.typing import NDArray
from random_encoders import write_clip, write_lama
from test_a1111 import Client
from torch.nn.functional import normalize
from webui_server import ABSENT, DIR, URL, running

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))

import ip_adapters
from stage import TINY, picture

from controlstack import embeddings, family
from controlstack.embeddings import FACE, GREY_PATCHES, PATCHES, RAW_FACE

SDXL = nets.SDXL | dict(
    cross_attention_dim=2048, addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816
)
nets.LAYOUTS |= {"webui": nets.SD1, "webui sdxl": SDXL}
"""The host's checkpoints."""
SMALL = dict(width=64, height=64, steps=2)
TRACE = 0.1
"""What a picture's trace in the noise, a fifteenth of it, must change at least, in levels."""
HALF = np.zeros((256, 256), np.uint8)
HALF[:, :128] = 255
Unit = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What a family is asked for, and at least how much of the picture that changes, in levels of 255.

    what: the family, or what it is of the family `of`
    base: a part of the checkpoint's name
    """

    what: str
    units: Callable[[], list[Unit]]
    of: str = ""
    base: str = ""
    least: float = 0.5
    job: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.what


def file_of(kind: str) -> str:
    return "family_" + "".join(filter(str.isalnum, kind)).lower()


def unit(kind: str, **fields: Any) -> Unit:
    """As strong as may be: few steps of a random net hide much."""
    extra = {name: value for name, value in getattr(TINY[kind], "UNIT", {}).items() if name != "module"}
    return {"module": "canny", "model": file_of(kind), "image": PHOTO, "weight": 2, **extra, **fields}


def bare(module: str, **fields: Any) -> Unit:
    """A unit without a file."""
    return {"module": module, "model": "None", "image": PHOTO, **fields}


def ready(model: str, embedding: Mapping[str, torch.Tensor]) -> Unit:
    """As webuiapi's users send what /controlnet/detect has answered: base64, no picture, no preprocessor."""
    return {"model": file_of(model), "ipadapter_input": [embeddings.write(embedding)], "weight": 2}


def person() -> dict[str, torch.Tensor]:
    """What networks know of a face, of as many channels as the tiny files read."""
    width = ip_adapters.WIDTH
    raw, shown, grey = (ip_adapters.noise(1, 9, width, seed=seed) for seed in range(3))
    face = raw[:, 0]
    return {RAW_FACE: 10 * face, FACE: normalize(face), PATCHES: shown, GREY_PATCHES: grey}


def instant_id() -> list[Unit]:
    face = ready("instant_id face", {RAW_FACE: 10 * ip_adapters.noise(1, 512, seed=1)})
    return [unit("ControlNet", model=file_of("instant_id"), module="none"), face]


FILES = [kind for kind, tiny in TINY.items() if hasattr(tiny, "tensors") and getattr(tiny, "LAYOUTS", True)]
UNMADE = {kind for kind, tiny in TINY.items() if not getattr(tiny, "LAYOUTS", True)}
"""What this diffusers cannot make files of."""
FACES = ip_adapters.FACES
CASES = [
    *(
        Case(kind, lambda kind=kind: [unit(kind)], least=1)
        for kind in FILES
        if "module" not in getattr(TINY[kind], "UNIT", {})
    ),
    *(
        Case(
            f"{kind}, ready embeddings",
            lambda kind=kind: [ready(kind, TINY[kind].look(picture(0), None))],
            of=kind,
        )
        for kind in ("IP-Adapter", "PuLID", "T2I style adapter")
    ),
    *(Case(f"FaceID {kind}", lambda kind=kind: [ready(kind, person())], of="IP-Adapter") for kind in FACES),
    Case("IP-Adapter", lambda: [unit("IP-Adapter", module="ip-adapter-auto")]),
    Case("T2I style adapter", lambda: [unit("T2I style adapter", module="clip_vision")]),
    *(
        Case(f"reference by {how}", lambda module=module: [bare(module)])
        for how, module in (
            ("attention", "reference_only"),
            ("statistics", "reference_adain"),
            ("both", "reference_adain+attn"),
        )
    ),
    Case("colour fix", lambda: [bare("tile_colorfix")]),
    Case("recolour by lightness", lambda: [bare("recolor_luminance")]),
    Case("recolour by intensity", lambda: [bare("recolor_intensity")]),
    Case("style align", lambda: [bare("style_align")], job=dict(batch_size=2)),
    Case("keep unmasked", lambda: [bare("inpaint_only", mask=png(HALF))]),
    # Where all is masked, nothing is kept.
    Case(
        "start from the picture",
        lambda: [bare("inpaint_only+lama", mask=png(np.full_like(HALF, 255)))],
        least=TRACE,
    ),
    Case("inpaint checkpoint", lambda: [bare("inpaint", mask=png(HALF))], base="inpaint"),
    Case("revision", lambda: [bare("revision_clipvision")], base="xl"),
    Case("revision without the prompt", lambda: [bare("revision_ignore_prompt")], base="xl"),
    Case("InstantID", instant_id, of="IP-Adapter", base="xl"),
]
NOTHING_TO_RUN = {"kinds that cannot be used here"}


def write_controls(folder: Path) -> None:
    for kind in FILES:
        nets.save(folder / f"{file_of(kind)}.safetensors", TINY[kind].tensors("webui", 0))
        for name, tensors in getattr(TINY[kind], "beside", lambda _: {})("webui").items():
            nets.save(folder / name, tensors)
    unet = nets.unet(nets.SD1)
    for kind in FACES:
        ip_adapters.saved(folder / f"{file_of(kind)}.safetensors", ip_adapters.adapter(unet, kind))
    nets.save(folder / f"{file_of('instant_id')}.safetensors", TINY["ControlNet"].tensors("webui sdxl", 0))
    face = ip_adapters.adapter(nets.unet(SDXL), "instant_id")
    ip_adapters.saved(folder / f"{file_of('instant_id face')}.safetensors", face)


def write_encoders(folder: Path) -> None:
    style, adapter = TINY["T2I style adapter"], TINY["IP-Adapter"]
    write_clip(folder, "clip_h.pth", 64, adapter.WIDTH)
    write_clip(folder, "clip_vitl.pth", style.WIDTH, 16)
    write_clip(folder, "clip_g.pth", 64, 1280)
    write_lama(folder)


class WebUI(Client):
    """The host with files of every family, at the checkpoint that a case wants."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.host)
        self._plain: dict[tuple[object, ...], NDArray[np.uint8]] = {}
        self._first: str = self._get("options")["sd_model_checkpoint"]
        self._base = ""
        self.picture()

    def _get(self, route: str) -> Any:
        return self.host.session.get(f"/sdapi/v1/{route}").json()

    def at(self, base: str) -> None:
        """Load the checkpoint with this in its name, or the first one again."""
        if base == self._base:
            return
        titles = [model["title"] for model in self._get("sd-models")]
        named = next((title for title in titles if base in Path(title).name), None) if base else self._first
        if named is None:
            pytest.skip(f"this WebUI has no checkpoint with {base!r} in its name")
        self.set(sd_model_checkpoint=named)
        self._base = base
        self.picture()  # hosts load late, and draw their noise otherwise while they do

    def plain(self, **fields: Any) -> NDArray[np.uint8]:
        """The picture without units, asked for once at each checkpoint."""
        key = self._base, *fields.items()
        if key not in self._plain:
            self._plain[key] = self.picture(**fields)
        return self._plain[key]

    def picture(self, *units: Unit, **fields: Any) -> NDArray[np.uint8]:
        """All pictures of a batch in a row."""
        shown = self.pictures(*units, **{**SMALL, **fields})
        return np.concatenate(shown[: fields.get("batch_size", 1)])


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    with running(tmp_path_factory.mktemp("webui") / "data") as serves:
        write_controls(serves.folder / "controls")
        write_encoders(serves.folder / "preprocessors")
        assert serves.session.get("/controlnet/model_list?update=true").status_code == 200
        client = WebUI(Client(serves))
        yield client
        client.at("")


@pytest.mark.webui
@pytest.mark.skipif(not (URL or DIR), reason=ABSENT)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_family_shows_in_the_picture_and_leaves_nothing(host: WebUI, case: Case) -> None:
    host.at(case.base)
    units = [{**unit, "save_detected_map": False} for unit in case.units()]
    job, before = dict(case.job), host.watch()
    plain = host.plain(**job)
    shown = host.picture(*units, **job)
    change = difference(shown, plain)
    print(f"{case}: {change:.2f}")
    assert change >= case.least
    assert np.array_equal(host.picture(*units, **job), shown), "asked again"
    assert np.array_equal(host.picture(**job), plain)
    outside = dict(guidance_start=0.9, guidance_end=0.95)
    idle = [{**unit, **still} for still in (dict(weight=0), outside) for unit in units]
    assert np.array_equal(host.picture(*idle, **job), plain)
    after = host.watch()
    assert (after["hooks"], after["callbacks"]) == (before["hooks"], before["callbacks"])


def test_no_family_is_forgotten() -> None:
    of = {case.of or case.what for case in CASES}
    assert of | UNMADE == {kind.name for kind in family.everything()} - NOTHING_TO_RUN
