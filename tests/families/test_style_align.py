"""StyleAlign, against the paper's shared attention written as a plain processor for diffusers' attention:
keys and values of all pictures of a prompt side by side, as in the `SharedAttentionProcessor` of
google/style-aligned without its AdaIN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stage import LAYOUTS, ROWS, STILL, Stage
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


def test_what_must_not_act_changes_no_bit_and_nothing_stays(stage: Stage) -> None:
    plain, whole = stage.output(), stage.output(UNIT)
    for name, fields in STILL.items():
        assert torch.equal(stage.output({**UNIT, **fields}), plain), name
    half = stage.output({**UNIT, "weight": 0.5})
    assert all((half - other).abs().mean() > 0.001 * plain.abs().mean() for other in (plain, whole))
    assert torch.equal(stage.output(), plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in stage.unet.modules())


def test_prompts_apart_rows_reordered_and_units_reordered_give_the_same(stage: Stage) -> None:
    units = UNIT, stage.unit()
    together = stage.output(*units)
    assert (together - stage.output(UNIT)).abs().mean() > 0.001 * together.abs().mean()
    apart = torch.cat([stage.output(*units, rows=rows) for rows in ([0, 1], [2, 3])])
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=0)
    reordered = stage.output(*units, rows=[2, 0, 3, 1])[[1, 3, 0, 2]]
    torch.testing.assert_close(reordered, together, atol=1e-5, rtol=0)
    torch.testing.assert_close(stage.output(*reversed(units)), together, atol=1e-5, rtol=0)


def test_a_picture_alone_has_nobody_to_look_at(stage: Stage) -> None:
    alone = [1, 3]
    torch.testing.assert_close(stage.output(UNIT, rows=alone), stage.output(rows=alone), atol=1e-6, rtol=0)
