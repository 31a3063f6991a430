"""Revision against diffusers' UNet, given the vector and the prompt that sd-webui-controlnet gives it:
the pooled prompt is the sum of the units' embeddings, noised by DDPM and times their weights, and zero in the
rows of the negative prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from stage import ROWS, STILL, inputs, picture, unet
from torch import Tensor

from controlstack import plan, preprocess
from controlstack.annotator.identity import clip
from controlstack.catalog import Catalog
from controlstack.embeddings import POOLED
from controlstack.errors import ControlError
from controlstack.hosts import unet_diffusers
from controlstack.image import Array
from controlstack.joints import Call, RowKind, Shadow
from controlstack.preprocess import Ask, Embedding
from controlstack.session import Session
from controlstack.sources import Job
from controlstack.unit import parse
from controlstack.weights import Loaded

WIDTH = 24
"""Of the pooled prompt of the tiny SDXL UNet."""
COND = torch.tensor([row.kind is RowKind.COND for row in ROWS])


def look(image: Array) -> Tensor:
    """What stands for CLIP's embedding: means of stripes."""
    return torch.from_numpy(image[:, :WIDTH].astype("float32")).mean((0, 2))[None] / 8 - 16


@pytest.fixture(autouse=True)
def without_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two rooms as they are, but for the network that they look with."""

    def embed(image: Array, ask: Ask) -> Embedding:
        return {POOLED: look(image)}

    for name in ("revision_clipvision", "revision_ignore_prompt"):
        room = preprocess.find(name)
        assert room.embed is not None
        assert room.files == (clip.G,)
        blind = {**vars(room), "embed": embed, "files": ()}
        monkeypatch.setitem(preprocess._shelf, name, preprocess.Preprocessor(**blind))


def output(*units: dict[str, Any], rows: tuple[int, ...] = (0, 1, 2, 3), **job: Any) -> Tensor:
    net = unet("sdxl")
    given = Job(width=64, height=64, base=unet_diffusers.base_of(net), **job)
    catalog = Catalog([Path()])
    plans = [
        plan.resolve(i, parse({"enabled": True, **unit}), given, catalog) for i, unit in enumerate(units)
    ]
    session = Session(Loaded(1), preprocess.Cache(), plans)
    session.prepare()
    session.begin(64, 64, unet_diffusers.LiveUNet(net), hires=False)
    x, t, context, added = inputs("sdxl")
    assert added is not None
    at = list(rows)

    def on_call(x: Tensor, t: Tensor, context: Tensor, y: Tensor | None, shadow: Shadow) -> Any:
        return session.step(Call(x, t, context, y, tuple(ROWS[i] for i in at), shadow=shadow))

    chosen = {name: value[at] for name, value in added.items()}
    with torch.no_grad(), unet_diffusers.attach(net, on_call, session.joints):
        result: Tensor = net(x[at], t[at], context[at], added_cond_kwargs=chosen, return_dict=False)[0]
    return result


def expected(pooled: Tensor, silent: bool = False) -> Tensor:
    """The UNet with this pooled prompt "1 D" in the rows of the positive one."""
    x, t, context, added = inputs("sdxl")
    assert added is not None
    vector = torch.where(COND[:, None], pooled, torch.zeros(()))
    with torch.no_grad():
        result: Tensor = unet("sdxl")(
            x,
            t,
            torch.zeros_like(context) if silent else context,
            added_cond_kwargs={**added, "text_embeds": vector},
            return_dict=False,
        )[0]
    return result


def noised(seen: Tensor, level: int, seed: int) -> Tensor:
    """diffusers' DDPM with LDM's default variances; its "scaled_linear" is what LDM calls linear."""
    noise = torch.randn(seen.shape, generator=torch.Generator().manual_seed((seed << 10) + level))
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=1e-4, beta_end=2e-2)
    return scheduler.add_noise(seen, noise, torch.tensor([level]))


def unit(seed: int = 0, module: str = "revision_clipvision", **fields: Any) -> dict[str, Any]:
    return {"module": module, "image": picture(seed), **fields}


@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0])
def test_the_picture_takes_the_place_of_the_pooled_prompt(amount: float) -> None:
    level = min(int(1000 * amount), 999)
    pooled = noised(look(picture(0)), level, seed=7) * 0.8
    ours, plain = output(unit(threshold_a=amount, weight=0.8), seed=7), output()
    assert (ours - plain).abs().mean() > 0.02 * plain.abs().mean()
    torch.testing.assert_close(ours, expected(pooled), atol=1e-5, rtol=0)


def test_two_units_are_summed_and_two_pictures_of_one_unit_averaged() -> None:
    one, two = (noised(look(picture(seed)), 0, seed=0) for seed in (0, 1))
    summed = output(unit(0, weight=0.4), unit(1, weight=0.7))
    torch.testing.assert_close(summed, expected(0.4 * one + 0.7 * two), atol=1e-5, rtol=0)
    torch.testing.assert_close(output(unit(1, weight=0.7), unit(0, weight=0.4)), summed, atol=1e-5, rtol=0)
    both = {**unit(), "image": [{"image": picture(0)}, {"image": picture(1)}]}
    torch.testing.assert_close(output(both), expected((one + two) / 2), atol=1e-5, rtol=0)


def test_the_prompt_is_ignored_where_a_unit_says_so_or_there_is_none() -> None:
    pooled = noised(look(picture(0)), 0, seed=0)
    silent = expected(pooled, silent=True)
    assert (silent - expected(pooled)).abs().mean() > 0.02 * silent.abs().mean()
    torch.testing.assert_close(output(unit(module="revision_ignore_prompt")), silent, atol=1e-5, rtol=0)
    torch.testing.assert_close(output(unit(), unprompted=True), silent, atol=1e-5, rtol=0)
    halves = output(unit(weight=0.5), unit(module="revision_ignore_prompt", weight=0.5))
    torch.testing.assert_close(halves, silent, atol=1e-5, rtol=0)


def test_rows_apart_are_the_same_and_what_must_not_act_does_not() -> None:
    given = unit(module="revision_ignore_prompt")
    together = output(given)
    apart = torch.cat([output(given, rows=(i,)) for i in range(len(ROWS))])
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=0)
    plain = output()
    for name, still in STILL.items():
        assert torch.equal(output({**given, **still}, hires=True), plain), name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet("sdxl").modules())
    spared = output({**given, "control_mode": "ControlNet is more important"})
    torch.testing.assert_close(spared[~COND], output()[~COND], atol=1e-5, rtol=0)


def test_other_checkpoints_are_refused_in_words() -> None:
    job = Job(width=64, height=64, base=unet_diffusers.base_of(unet("sd1")))
    with pytest.raises(ControlError, match="SDXL checkpoint"):
        plan.resolve(0, parse({"enabled": True, **unit()}), job, Catalog([Path()]))
