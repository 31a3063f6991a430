"""T2I style adapters against transformers' CLIP layers, and against diffusers' UNet with their tokens behind
the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stage import ROWS, Stage, inputs, picture
from tiny import style_adapter as tiny
from torch import Tensor, nn
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from controlstack.embeddings import LAST_PATCHES
from controlstack.errors import ControlError
from controlstack.joints import RowKind
from controlstack.preprocess import Ask, Preprocessor

COND = [i for i, row in enumerate(ROWS) if row.kind is RowKind.COND]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("models"), "sd1", tiny.FAMILY)


@torch.no_grad()
def tokens(seed: int, net: int = 0) -> Tensor:
    """What TencentARC's StyleAdapter does, with transformers' layers: its blocks are CLIP's."""
    state = tiny.tensors("sd1", net)
    width = tiny.WIDTH
    config = CLIPVisionConfig(hidden_size=width, intermediate_size=4 * width, num_attention_heads=8)
    config._attn_implementation = "eager"
    h = torch.cat([tiny.look(picture(seed), Ask())[LAST_PATCHES], state["style_embedding"]], dim=1)
    h = nn.functional.layer_norm(h, (width,), state["ln_pre.weight"], state["ln_pre.bias"])
    for n in range(tiny.LAYERS):
        own = {name.split(f"layes.{n}.")[1]: t for name, t in state.items() if f"layes.{n}." in name}
        names = {"ln_1.": "layer_norm1.", "ln_2.": "layer_norm2.", "mlp.c_fc.": "mlp.fc1."}
        names |= {"mlp.c_proj.": "mlp.fc2.", "attn.out_proj.": "self_attn.out_proj."}
        made = {ours + p: own[theirs + p] for theirs, ours in names.items() for p in ("weight", "bias")}
        for part in ("weight", "bias"):
            thirds = own[f"attn.in_proj_{part}"].chunk(3)
            made |= {f"self_attn.{r}_proj.{part}": t for r, t in zip("qkv", thirds, strict=True)}
        layer = CLIPEncoderLayer(config).eval()
        layer.load_state_dict(made)
        given = {"causal_attention_mask": None} if _wants_causal(layer) else {}
        h = layer(h, attention_mask=None, **given)
        h = h[0] if isinstance(h, tuple) else h
    h = nn.functional.layer_norm(
        h[:, -tiny.TOKENS :], (width,), state["ln_post.weight"], state["ln_post.bias"]
    )
    return h @ state["proj"]


def _wants_causal(layer: nn.Module) -> bool:
    return "causal_attention_mask" in layer.forward.__code__.co_varnames


@torch.no_grad()
def theirs(stage: Stage, more: Tensor) -> Tensor:
    """The UNet with these tokens "1 n D" behind the prompt, the rows of the positive prompt alone."""
    x, t, context, _ = inputs("sd1")
    x, t, context = x[COND], t[COND], context[COND]
    longer = torch.cat([context, more.expand(len(x), -1, -1)], dim=1)
    result: Tensor = stage.unet(x, t, longer, return_dict=False)[0]
    return result


def visible(change: Tensor, plain: Tensor) -> bool:
    return bool(change.abs().mean() > 0.02 * plain.abs().mean())


@pytest.mark.parametrize("weight", [0.4, 1.0])
def test_the_prompt_gets_the_tokens_times_the_weight(stage: Stage, weight: float) -> None:
    ours, plain = stage.output(stage.unit(weight=weight)), stage.output()
    expected = theirs(stage, weight * tokens(0))
    assert visible(expected - plain[COND], plain)
    torch.testing.assert_close(ours[COND], expected, atol=1e-5, rtol=0)
    rest = [i for i in range(len(ROWS)) if i not in COND]
    torch.testing.assert_close(ours[rest], plain[rest], atol=1e-6, rtol=0)


def test_tokens_of_several_units_stand_one_behind_the_other(stage: Stage) -> None:
    ours = stage.output(stage.unit(0), stage.unit(1, model="net1", weight=0.6))
    expected = theirs(stage, torch.cat([tokens(0), 0.6 * tokens(1, net=1)], dim=1))
    torch.testing.assert_close(ours[COND], expected, atol=1e-5, rtol=0)


def test_pictures_of_one_unit_stand_so_too_or_are_averaged(stage: Stage) -> None:
    both = {"image": [{"image": picture(0)}, {"image": picture(1)}]}
    ours = stage.output(stage.unit(combination="concat", **both))
    expected = theirs(stage, torch.cat([tokens(0), tokens(1)], dim=1))
    torch.testing.assert_close(ours[COND], expected, atol=1e-5, rtol=0)
    average = stage.output(stage.unit(combination="average", **both))
    assert visible(average[COND] - expected, expected)


def test_it_says_what_it_reads(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(image: Any, ask: Ask) -> dict[str, Tensor]:
        return {LAST_PATCHES: torch.zeros(1, 4, 20)}

    narrow = Preprocessor("tiny clip-l", lambda image, ask: image, "tiny clip-l", embed=other)
    monkeypatch.setattr(tiny, "PREPROCESSOR", narrow)
    with pytest.raises(ControlError, match="t2ia_style_clipvision"):
        stage.begin(stage.unit())


def test_a_damaged_file_is_called_so(tmp_path: Path, stage: Stage) -> None:
    import nets

    state = tiny.tensors("sd1", 0)
    del state["transformer_layes.0.ln_2.bias"]
    damaged = Stage(tmp_path, "sd1", tiny.FAMILY)
    nets.save(tmp_path / "net0.safetensors", state)
    with pytest.raises(ControlError, match="damaged"):
        damaged.begin(damaged.unit())
