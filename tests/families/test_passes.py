"""Every family in the high-resolution pass of a hires fix: what it adds there is made for that pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from stage import KINDS, ROWS, SIZE, Live, Stage, inputs
from torch import Tensor

from controlstack import preprocess
from controlstack.evaluation import Evaluation
from controlstack.hosts import unet_diffusers
from controlstack.joints import Call, Shadow
from controlstack.session import Session

LARGE = SIZE * 3 // 2


@pytest.mark.parametrize(("kind", "layout"), KINDS)
def test_the_hires_pass_has_features_of_its_own(tmp_path: Path, kind: str, layout: str) -> None:
    """After a first pass it is as in a job without one, at its own size."""
    stage = Stage(tmp_path, layout, kind)
    session = stage.begin(stage.unit())
    first = stage.evaluate(session)
    assert (first - stage.output()).abs().max() > 0
    alone = Session(stage.models, session.cache, session.plans)
    alone.prepare()
    shown, plain = enlarged(stage, session), enlarged(stage, Session(stage.models, preprocess.Cache()))
    assert (shown - plain).abs().mean() > 0.02 * plain.abs().mean()
    assert torch.equal(enlarged(stage, alone), shown)


@torch.no_grad()
def enlarged(stage: Stage, session: Session) -> Tensor:
    """What the UNet puts out at the first step of a high-resolution pass."""
    session.begin(LARGE, LARGE, Live(stage.unet, DDIMScheduler()), hires=True)
    _, t, context, added = inputs(stage.layout)
    cells = LARGE // 8
    x = torch.randn(len(ROWS), 4, cells, cells, generator=torch.Generator().manual_seed(2))

    def on_call(x: Tensor, t: Tensor, context: Tensor, y: Tensor | None, shadow: Shadow) -> Evaluation | None:
        return session.step(Call(x, t, context, y, ROWS, hires=True, shadow=shadow))

    with unet_diffusers.attach(stage.unet, on_call, session.joints):
        output: Tensor = stage.unet(x, t, context, added_cond_kwargs=added, return_dict=False)[0]
    return output
