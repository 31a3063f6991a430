"""InstantID against its published pipeline, in diffusers' parts: what the ControlNet and the UNet's attention
read is the face that the resampler makes tokens of; of nobody for the rows of the negative prompt."""

from __future__ import annotations

from typing import Any

import ip_adapters
import nets
import pytest
import torch
from stage import ROWS, Stage, inputs, picture
from torch import Tensor

from controlstack import preprocess
from controlstack.embeddings import RAW_FACE
from controlstack.errors import ControlError
from controlstack.families.controlnet import KEYPOINTS
from controlstack.image import hint
from controlstack.joints import RowKind
from controlstack.preprocess import Preprocessor

CONTROLNET, OTHER, FACE = "control_instant_id_sdxl", "InstantID", "ip-adapter_instant_id_sdxl"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("models")
    made = Stage(folder, "sdxl", "ControlNet")
    for seed, name in enumerate((CONTROLNET, OTHER)):
        nets.save(folder / f"{name}.safetensors", made.tiny.tensors("sdxl", seed))
    ip_adapters.saved(folder / f"{FACE}.safetensors", ip_adapters.adapter(made.unet, "instant_id"))
    made.catalog.refresh()
    return made


def person(seed: int) -> Tensor:
    """As antelopev2 puts it out, not normalised."""
    return 10 * ip_adapters.noise(1, 512, seed=seed)


def face(seed: int = 0, **fields: Any) -> dict[str, Any]:
    return {"model": FACE, "ipadapter_input": [{RAW_FACE: person(seed)}], **fields}


def points(**fields: Any) -> dict[str, Any]:
    return {"model": CONTROLNET, "module": "none", "image": picture(0), **fields}


@torch.no_grad()
def published(seed: int, weight: float, scale: float) -> Tensor:
    """pipeline_stable_diffusion_xl_instantid.py, one step; weight of the ControlNet, scale of the adapter."""
    config = nets.LAYOUTS["sdxl"]
    unet: Any = nets.unet(config)
    unet._load_ip_adapter_weights([ip_adapters.adapter(unet, "instant_id")], low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [scale]
    x, t, context, added = inputs("sdxl")
    asked = [row.kind is RowKind.COND for row in ROWS]
    people = torch.stack([person(seed)[None] * one for one in asked])
    (tokens,) = unet.encoder_hid_proj([people])
    net: Any = nets.controlnet(config)
    skips, middle = net(
        *(x, t, tokens.flatten(1, 2), hint(picture(0)).expand(len(ROWS), -1, -1, -1), weight),
        added_cond_kwargs=added,
        return_dict=False,
    )
    output = unet(
        *(x, t, context),
        added_cond_kwargs={**(added or {}), "image_embeds": [people]},
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
        return_dict=False,
    )[0]
    assert isinstance(output, Tensor)
    return output


def test_it_is_the_published_pipeline_wherever_the_face_stands(stage: Stage) -> None:
    expected = published(1, 0.8, 0.6)
    units = [points(weight=0.8), face(1, weight=0.6)]
    for order in (units, units[::-1]):
        torch.testing.assert_close(stage.output(*order), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(stage.output(points(weight=0.8), face(2, weight=0.6)), expected, atol=1e-3)


def test_rows_split_and_reordered_give_the_same(stage: Stage) -> None:
    units = (points(), face(1))
    together = stage.output(*units)
    split = torch.cat([stage.output(*units, rows=[i]) for i in range(4)])
    swapped = stage.output(*units, rows=[2, 0, 3, 1])[[1, 3, 0, 2]]
    torch.testing.assert_close(split, together, atol=1e-5, rtol=0)
    torch.testing.assert_close(swapped, together, atol=1e-5, rtol=0)


def test_two_people_each_with_the_points_behind_them(stage: Stage) -> None:
    one, other = (face(1), points()), (face(2), points(model=OTHER))
    pairs = stage.output(*one, *other)
    torch.testing.assert_close(stage.output(*other, *one), pairs, atol=1e-5, rtol=0)
    crossed = stage.output(one[0], other[1], other[0], one[1])
    assert (crossed - pairs).abs().max() > 1e-3, "a hundred times what is allowed above"


def test_without_a_face_it_says_so(stage: Stage) -> None:
    session = stage.begin(points())
    with pytest.raises(ControlError, match="has no face"):
        stage.evaluate(session)


def test_a_file_of_another_name_is_told_by_the_preprocessor(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tensor tells InstantID's ControlNet from others for SDXL, which read the prompt."""
    ready = Preprocessor(KEYPOINTS, lambda image, ask: image, KEYPOINTS)
    monkeypatch.setitem(preprocess._shelf, KEYPOINTS, ready)
    named = stage.output(points(), face(1))
    torch.testing.assert_close(stage.output(points(model="net0", module=KEYPOINTS), face(1)), named)
    assert not torch.allclose(stage.output(points(model="net0"), face(1)), named, atol=1e-3)
