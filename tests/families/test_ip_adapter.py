"""IP-Adapter against diffusers' own: its projectors, and its attention processors inside a UNet."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nets
import numpy as np
import pytest
import torch
from controls import on_call
from diffusers.loaders import IPAdapterMixin
from ip_adapters import FACES, WIDTH, adapter, noise, saved
from stage import Stage, picture
from torch import Tensor, nn

from controlstack import embeddings, family, plan, preprocess
from controlstack.catalog import Catalog
from controlstack.embeddings import FACE, GREY_PATCHES, PATCHES, POOLED, RAW_FACE
from controlstack.errors import ControlError
from controlstack.families.ip_adapter import Reading
from controlstack.family import Match, Start
from controlstack.hosts import unet_diffusers
from controlstack.joints import Control, Row, RowKind
from controlstack.preprocess import Embedding
from controlstack.schedule import Schedule
from controlstack.sources import Job
from controlstack.unit import Combination, WeightType, parse
from controlstack.weight_types import layer_weights
from controlstack.weights import Header, read_header

ROWS = (Row(0, RowKind.UNCOND), Row(0, RowKind.COND))


def embedding(kind: str, seed: int) -> Embedding:
    if kind == "standard":
        return {POOLED: noise(1, WIDTH, seed=seed)}
    face = {FACE: noise(1, WIDTH, seed=seed), RAW_FACE: 20 * noise(1, WIDTH, seed=seed)}
    if kind in FACES and "plus" not in kind:
        return face
    return face | {PATCHES: noise(1, 9, WIDTH, seed=seed), GREY_PATCHES: noise(1, 9, WIDTH, seed=99)}


def control(path: Path, unet: nn.Module, *embeddings: Embedding, **fields: object) -> Control:
    match = family.recognise(read_header(path))
    live = unet_diffusers.LiveUNet(unet)
    assert match.base.mismatch(unet_diffusers.base_of(unet)) is None
    nothing = np.zeros((64, 64, 3), np.uint8)
    network = match.family.load(match, live)
    unit = parse({"model": "a", **fields})
    return match.family.begin(
        Start(network, match, torch.zeros(1, 3, 64, 64), nothing, unit, live, embeddings=embeddings)
    )


def inputs(unet: nn.Module) -> dict[str, Any]:
    config: Any = unet.config
    given: dict[str, Any] = dict(
        sample=noise(2, 4, 8, 8, seed=1),
        timestep=torch.tensor([500, 500]),
        encoder_hidden_states=noise(2, 7, config.cross_attention_dim, seed=2),
        return_dict=False,
    )
    if config.addition_embed_type:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        given["added_cond_kwargs"] = {"text_embeds": noise(2, pooled, seed=3), "time_ids": torch.ones(2, 6)}
    return given


@torch.no_grad()
def ours(unet: nn.Module, running: Control, schedule: Schedule | None = None) -> Tensor:
    with unet_diffusers.attach(unet, on_call(running, schedule=schedule, rows=ROWS), {"attended"}):
        output = unet(**inputs(unet))[0]
    assert isinstance(output, Tensor)
    return output


@torch.no_grad()
def theirs(config: nets.Config, file: Any, embeddings: list[Embedding], kind: str, scale: Any) -> Tensor:
    """diffusers: `_load_ip_adapter_weights`, one entry of image_embeds "R pictures …" for each adapter.

    scale: as its pipelines take it: a number, or numbers by the names of blocks
    """
    unet: Any = nets.unet(config)
    unet._load_ip_adapter_weights([file], low_cpu_mem_usage=False)
    pipeline: Any = SimpleNamespace(unet=unet, unet_name="unet")
    IPAdapterMixin.set_ip_adapter_scale(pipeline, scale)
    whole = FACE if kind in FACES else POOLED
    if kind == "standard" or kind in FACES:
        seen = torch.stack([torch.zeros(len(embeddings), WIDTH), torch.cat([e[whole] for e in embeddings])])
    if kind != "standard" and PATCHES in embeddings[0]:
        uncond = torch.cat([e[GREY_PATCHES] for e in embeddings])
        patches = torch.stack([uncond, torch.cat([e[PATCHES] for e in embeddings])])
        if kind in FACES:
            unet.encoder_hid_proj.image_projection_layers[0].clip_embeds = patches
            unet.encoder_hid_proj.image_projection_layers[0].shortcut = kind.endswith("v2")
        else:
            seen = patches
    given = inputs(unet)
    given["added_cond_kwargs"] = given.get("added_cond_kwargs", {}) | {"image_embeds": [seen]}
    output = unet(**given)[0]
    assert isinstance(output, Tensor)
    return output


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        *((layout, kind) for layout in ("sd1", "sdxl") for kind in ("standard", "plus", "full-face")),
        *(("narrow", kind) for kind in FACES),
        *(("sdxl", kind) for kind in FACES if kind != "face_id_plus"),  # SDXL has v2 only
    ],
)
def test_it_is_diffusers_ip_adapter(tmp_path: Path, layout: str, kind: str) -> None:
    config = nets.LAYOUTS[layout]
    unet = nets.unet(config)
    file = adapter(unet, kind)
    path = saved(tmp_path / f"{kind}.safetensors", file)
    with torch.no_grad():
        plain = unet(**inputs(unet))[0]
    one = [embedding(kind, 7)]
    running = control(path, unet, *one)
    controlled = ours(unet, running)
    assert (controlled - plain).abs().mean() > 0.02 * plain.abs().mean()
    torch.testing.assert_close(controlled, theirs(config, file, one, kind, 1.0), atol=1e-5, rtol=1e-4)
    half = ours(unet, running, Schedule(weight=0.5))
    torch.testing.assert_close(half, theirs(config, file, one, kind, 0.5), atol=1e-5, rtol=1e-4)
    two = [embedding(kind, 7), embedding(kind, 8)]
    beside = ours(unet, control(path, unet, *two, combination="Concat"))
    torch.testing.assert_close(beside, theirs(config, file, two, kind, 1.0), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(beside, controlled, atol=1e-3)


def test_several_pictures_count_as_their_average(tmp_path: Path) -> None:
    unet = nets.unet(nets.SD1)
    path = saved(tmp_path / "a.safetensors", adapter(unet, "standard"))
    two = [embedding("standard", 7), embedding("standard", 8)]
    mean = {POOLED: (two[0][POOLED] + two[1][POOLED]) / 2}
    averaged, one = (ours(unet, control(path, unet, *given)) for given in (two, [mean]))
    torch.testing.assert_close(averaged, one)
    assert parse({}).combination is Combination.AVERAGE


def test_layers_are_counted_by_blocks_in_the_order_in_which_they_run(tmp_path: Path) -> None:
    """peer, IP-Adapter's transformer_index: SD1.5 inputs 0 to 5, middle 6, outputs 7 to 15; SDXL 0 to 3, 4,
    5 to 10."""
    for layout, layers in (("sd1", 16), ("sdxl", 11)):
        unet = nets.unet(nets.LAYOUTS[layout])
        path = saved(tmp_path / f"{layout}.safetensors", adapter(unet, "standard"))
        running = control(path, unet, embedding("standard", 7))
        sites = [site for site in unet_diffusers.LiveUNet(unet).sites if site.cross]
        assert [running.layer(site) for site in sites] == sorted(running.layer(site) for site in sites)
        assert {running.layer(site) for site in sites} == set(range(layers))
        middle = {"sd1": 6, "sdxl": 4}[layout]
        assert {running.layer(site) for site in sites if site.block.part == "middle"} == {middle}
        assert family.recognise(read_header(path)).layers == layers


def test_one_layer_alone_acts(tmp_path: Path) -> None:
    unet = nets.unet(nets.SD1)
    path = saved(tmp_path / "a.safetensors", adapter(unet, "standard"))
    running = control(path, unet, embedding("standard", 7))
    whole, none = (ours(unet, running, Schedule(layers=(factor,) * 16)) for factor in (1.0, 0.0))
    last = ours(unet, running, Schedule(layers=(0.0,) * 15 + (1.0,)))
    torch.testing.assert_close(whole, ours(unet, running))
    assert (last - none).abs().mean() > 1e-3
    assert (last - whole).abs().mean() > 1e-3


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        (WeightType.STYLE, {"up": {"block_0": [0.0, 1.0, 0.0]}}),
        (WeightType.COMPOSITION, {"down": {"block_2": [0.0, 1.0]}}),
        (
            WeightType.STYLE_AND_COMPOSITION,
            {"down": {"block_2": [0.0, 0.5]}, "up": {"block_0": [0.0, 1.0, 0.0]}},
        ),
    ],
)
def test_style_and_composition_are_instant_styles(
    tmp_path: Path, kind: WeightType, scale: dict[str, Any]
) -> None:
    """diffusers' guide to IP-Adapter, "Style and layout control": the blocks that InstantStyle names."""
    config = nets.LAYOUTS["sdxl"]
    unet = nets.unet(config)
    file = adapter(unet, "standard")
    one = [embedding("standard", 7)]
    running = control(saved(tmp_path / "a.safetensors", file), unet, *one)
    weighed = ours(unet, running, Schedule(layers=tuple(layer_weights(kind, 11, composition=0.5))))
    torch.testing.assert_close(weighed, theirs(config, file, one, "standard", scale), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(weighed, ours(unet, running), atol=1e-3)


def test_another_clip_network_is_refused_in_a_sentence(tmp_path: Path) -> None:
    unet = nets.unet(nets.SD1)
    path = saved(tmp_path / "a.safetensors", adapter(unet, "plus"))
    with pytest.raises(ControlError, match="is not what this IP-Adapter reads"):
        control(path, unet, {POOLED: noise(1, WIDTH, seed=0)})
    with pytest.raises(ControlError, match="is not what this IP-Adapter reads"):
        control(path, unet, {PATCHES: noise(1, 9, WIDTH + 1, seed=0)})


def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    unet = nets.unet(nets.SD1)
    file = adapter(unet, "plus")
    del file["image_proj"]["norm_out.bias"]
    with pytest.raises(ControlError, match="cannot be used"):
        control(saved(tmp_path / "a.safetensors", file), unet, embedding("plus", 7))


ASKED = {
    "sdxl": "ip-adapter_clip_g",
    "sd15_vit-G": "ip-adapter_clip_g",
    "faceid_sd15": "ip-adapter_face_id",
    "faceid-portrait_sd15": "ip-adapter_face_id",
    "faceid_sdxl": "ip-adapter_face_id",
    "faceid-portrait_sdxl": "ip-adapter_face_id",
    "faceid-plus_sd15": "ip-adapter_face_id_plus",
    "faceid-plusv2_sdxl": "ip-adapter_face_id_plus",
    "instant_id": "instant_id_face_embedding",
}
"""The incumbent's presets, by file name; clip_h for all others."""
LORAS = {
    "faceid_sd15": "ip-adapter-faceid_sd15_lora",
    "faceid_sdxl": "ip-adapter-faceid_sdxl_lora",
    "faceid-plus_sd15": "ip-adapter-faceid-plus_sd15_lora",
    "faceid-plusv2_sdxl": "ip-adapter-faceid-plusv2_sdxl_lora",
}
"""The incumbent's presets: the companions of those that were trained with one, in h94/IP-Adapter-FaceID."""


def published(name: str, saved_as: str = "") -> Match:
    file = Path(__file__).parent / "headers" / f"ip_adapter-{name}.json.gz"
    shapes = json.loads(gzip.decompress(file.read_bytes()))["shapes"]
    held = {name: tuple(shape) for name, shape in shapes.items()}
    return family.recognise(Header(Path(saved_as or f"ip-adapter-{name}.bin"), held))


def test_published_files_ask_for_what_they_were_made_with() -> None:
    files = (Path(__file__).parent / "headers").glob("ip_adapter-*.json.gz")
    names = {file.name.removeprefix("ip_adapter-").removesuffix(".json.gz") for file in files}
    assert names > ASKED.keys()
    for name in names:
        match = published(name)
        assert preprocess.find(match.preprocessor).label == ASKED.get(name, "ip-adapter_clip_h")
        assert match.base.name == ("SDXL" if "sdxl" in name or name == "instant_id" else "SD1.x")
        assert match.lora == LORAS.get(name, "")


def test_what_no_tensor_tells_is_read_from_the_name() -> None:
    """v2 of plus has the tensors of v1, and unnorm those of portrait; SDXL has no plus but v2."""

    def reading(name: str, saved_as: str = "") -> Reading:
        found = published(name, saved_as).detail
        assert isinstance(found, Reading)
        return found

    assert not reading("faceid-plus_sd15").shortcut
    assert reading("faceid-plus_sd15", "ip-adapter-faceid-plusv2_sd15.bin").shortcut
    assert published("faceid-plus_sd15", "ip-adapter-faceid-plusv2_sd15.bin").lora.endswith(
        "plusv2_sd15_lora"
    )
    assert reading("faceid-plusv2_sdxl", "renamed.bin").shortcut
    assert not reading("faceid_sd15", "v2/ip-adapter-faceid_sd15.bin").shortcut
    assert reading("faceid-portrait_sdxl").reads == {FACE: 512}
    assert reading("faceid-portrait_sdxl", "ip-adapter-faceid-portrait_sdxl_unnorm.bin").reads == {
        RAW_FACE: 512
    }


def test_auto_needs_a_model_that_asks(tmp_path: Path) -> None:
    job = Job(64, 64, unet_diffusers.base_of(nets.unet(nets.SD1)))
    unit = parse({"module": "ip-adapter-auto", "image": np.zeros((64, 64, 3), np.uint8), "enabled": True})
    with pytest.raises(ControlError, match="stands for the one that a model asks for"):
        plan.resolve(0, unit, job, Catalog([tmp_path]))


def test_ready_embeddings_take_the_place_of_pictures(tmp_path: Path) -> None:
    """What was made before gives the picture that the pictures give, and needs neither them nor CLIP."""
    stage = Stage(tmp_path, "sd1", "IP-Adapter")
    tiny: Any = stage.tiny
    made = [embeddings.write(tiny.look(picture(seed), None)) for seed in (0, 1)]
    seen = stage.output(stage.unit(image=[{"image": picture(seed)} for seed in (0, 1)]))
    given = stage.unit(image=None, module="none", ipadapter_input=made)
    torch.testing.assert_close(stage.output(given), seen)
    assert not torch.allclose(stage.output(stage.unit(image=None, ipadapter_input=made[:1])), seen, atol=1e-3)
    assert not stage.begin(given).plans[0].unit.save_detected_map


def test_ready_embeddings_need_a_model_that_reads_them(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "sd1", "ControlNet")
    with pytest.raises(ControlError, match="for models which read embeddings"):
        stage.begin(stage.unit(ipadapter_input=[embeddings.write(embedding("standard", 7))]))
