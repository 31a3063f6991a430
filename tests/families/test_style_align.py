"""StyleAlign, against the paper's shared attention written as a plain processor for diffusers' attention:
keys and values of all pictures of a prompt side by side, as in the `SharedAttentionProcessor` of
google/style-aligned without its AdaIN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stage import LAYOUTS, ROWS, Stage
from torch import Tensor

from controlstack.joints import RowKind

UNIT = {"module": "style_align", "model": "None", "image": None}


class Shared:
    """Attention in which rows of one prompt see each other's tokens."""

    def __call__(self, attn: Any, h: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Tensor:
        seen = h if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            part.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(h), attn.to_k(seen), attn.to_v(seen))
        )
        if encoder_hidden_states is None:
            parts = []
            for kind in (RowKind.UNCOND, RowKind.COND):
                rows = [nth for nth, row in enumerate(ROWS) if row.kind is kind]
                all_k, all_v = (
                    torch.cat(list(one[rows]), dim=1).expand(len(rows), -1, -1, -1) for one in (k, v)
                )
                parts.append(F.scaled_dot_product_attention(q[rows], all_k, all_v))
            out = torch.cat(parts)
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


@pytest.fixture(params=LAYOUTS)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    return Stage(tmp_path, request.param, "reference by both")


def test_it_is_shared_attention(stage: Stage) -> None:
    ours, plain = stage.output(UNIT), stage.output()
    before = stage.unet.attn_processors
    stage.unet.set_attn_processor(Shared())
    theirs = stage.output()
    stage.unet.set_attn_processor(before)
    assert (ours - plain).abs().mean() > 0.002 * plain.abs().mean()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_half_of_the_weight_is_half_of_the_change_in_one_layer_and_none_is_none(stage: Stage) -> None:
    assert torch.equal(stage.output({**UNIT, "weight": 0}), stage.output())
    assert not torch.equal(stage.output({**UNIT, "weight": 0.5}), stage.output(UNIT))


def test_a_picture_alone_has_nobody_to_look_at(stage: Stage) -> None:
    alone = [1, 3]
    torch.testing.assert_close(stage.output(UNIT, rows=alone), stage.output(rows=alone), atol=1e-6, rtol=0)
