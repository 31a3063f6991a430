"""PuLID against its authors' code: `pulid.json` has what that makes of weights and inputs by a formula."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from stage import Stage, picture
from torch import Tensor, nn
from waves import state, wave

from controlstack import embeddings
from controlstack.embeddings import EVA, EVA_LAYERS, RAW_FACE
from controlstack.errors import ControlError
from controlstack.families.pulid import EMPTY, Encoder, Former, Pass, _tokens
from controlstack.image_prompt import Network, TokensPass
from controlstack.joints import Attention, Block, Call, Row, RowKind, Site
from controlstack.unit import PuLIDMode

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "pulid.json").read_text("utf-8"))
MODES = {mode.value: mode for mode in PuLIDMode}
ROWS = (Row(0, RowKind.UNCOND), Row(0))
SITE = Site(Block("input", 1), 0, cross=True)


def expected(name: str, shape: torch.Size) -> Tensor:
    return torch.tensor(PUBLISHED[name]).reshape(shape)


def mapping(name: str, *widths: int) -> dict[str, tuple[int, ...]]:
    made: dict[str, tuple[int, ...]] = {}
    for n, (reads, width) in zip((0, 3, 6), pairwise(widths), strict=True):
        made |= {f"{name}.{n}.weight": (width, reads), f"{name}.{n}.bias": (width,)}
        if n < 6:
            made |= {f"{name}.{n + 1}.weight": (width,), f"{name}.{n + 1}.bias": (width,)}
    return made


def encoder() -> nn.Module:
    """IDEncoder(context_dim=32)."""
    shapes = mapping("body", 1280, 40, 80, 160)
    for n in range(5):
        shapes |= mapping(f"mapping_{n}", 1024, 1024, 1024, 32)
        shapes |= mapping(f"mapping_patch_{n}", 1024, 1024, 1024, 32)
    return filled(Encoder(shapes), shapes)


def former() -> nn.Module:
    """IDFormer(dim=64, depth=5, heads=2, num_queries=6, output_dim=32)."""
    shapes: dict[str, tuple[int, ...]] = {"latents": (1, 6, 64), "proj_out": (64, 32)}
    shapes |= mapping("id_embedding_mapping", 1280, 1024, 1024, 320)
    for n in range(5):
        shapes |= mapping(f"mapping_{n}", 1024, 1024, 1024, 64)
        look, widen = f"layers.{n}.0", f"layers.{n}.1"
        shapes |= {f"{look}.norm{k}.{what}": (64,) for k in (1, 2) for what in ("weight", "bias")}
        shapes |= {f"{look}.to_q.weight": (128, 64), f"{look}.to_kv.weight": (256, 64)}
        shapes |= {f"{look}.to_out.weight": (64, 128), f"{widen}.0.weight": (64,), f"{widen}.0.bias": (64,)}
        shapes |= {f"{widen}.1.weight": (256, 64), f"{widen}.3.weight": (64, 256)}
    return filled(Former(shapes), shapes)


def filled(net: nn.Module, shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    net.load_state_dict(state(shapes))
    return net.requires_grad_(False).eval()


FACES = 30 * wave(2, 1280, seed=101)
DEPTHS = torch.stack([30 * wave(2, 9, 1024, seed=200 + n) for n in range(5)], dim=1)


def test_version_1_is_published_encoder() -> None:
    tokens = encoder()(FACES[None, :1], DEPTHS[:1])
    assert tokens.shape == (1, 10, 32)
    assert tokens.std() > 0.1
    torch.testing.assert_close(tokens, expected("encoder", tokens.shape), atol=1e-5, rtol=1e-5)


def test_version_1_1_is_published_former_also_of_two_pictures() -> None:
    net = former()
    one = net(FACES[None, :1], DEPTHS[:1])
    two = net(FACES[None], DEPTHS.transpose(0, 1).flatten(1, 2)[None])
    assert (one - two).abs().mean() > 0.01
    torch.testing.assert_close(one, expected("former", one.shape), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(two, expected("former_two", two.shape), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_attention_is_the_published_processors(mode: str) -> None:
    """IDAttnProcessor2_0: "Fidelity" with ORTHO_v2 and 8 zeros, "Extremely style" with ORTHO and 16."""
    h, prompt = 12 * wave(2, 12, 16, seed=320), 12 * wave(2, 7, 24, seed=321)
    q, k, v = h @ wave(16, 16, seed=300).T, *(prompt @ wave(16, 24, seed=n).T for n in (301, 302))
    attention = Attention(q, k, v, torch.empty(0), 2, lambda _: (k, v))
    attention = replace(attention, out=attention.over(k, v))
    person = nn.functional.pad(15 * wave(2, 10, 24, seed=322), (0, 0, 0, EMPTY[MODES[mode]]))
    running = Pass.__new__(Pass)
    network = Network(nn.Identity(), [wave(16, 24, seed=310)], [wave(16, 24, seed=311)])
    host: Any = type("Host", (), {"sites": [SITE]})
    TokensPass.__init__(running, network, person, host)
    running._style = MODES[mode] is PuLIDMode.STYLE
    call = Call(torch.zeros(2, 4, 3, 4), torch.zeros(2), prompt, None, ROWS)
    change = running.attended(SITE, attention, call)
    assert change is not None
    torch.testing.assert_close(change, expected(mode, change.shape), atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("models"), "sdxl", "PuLID")


def test_the_mode_of_a_unit_counts(stage: Stage) -> None:
    plain = stage.output()
    fidelity, style = (stage.output(stage.unit(pulid_mode=mode)) for mode in PuLIDMode)
    assert (fidelity - style).abs().mean() > 0.01 * plain.abs().mean()
    assert torch.equal(stage.output(stage.unit()), fidelity)


def test_several_pictures_side_by_side(stage: Stage) -> None:
    """As the authors' demo mixes people: the tokens of each, one after the other."""
    pictures = [{"image": picture(seed)} for seed in range(2)]
    session = stage.begin(stage.unit(image=pictures, combination="Concat"))
    plan, match, _ = session._controls[0]
    network: Any = session._networks[0]

    class Start:
        unit, embeddings = plan.unit, session._embedded[0]

    Start.match = match  # type: ignore[attr-defined]
    both = _tokens(network, Start, asked=True)  # type: ignore[arg-type]
    for n in range(2):
        Start.embeddings = session._embedded[0][n : n + 1]
        alone = _tokens(network, Start, asked=True)  # type: ignore[arg-type]
        torch.testing.assert_close(both[:, 10 * n : 10 * n + 10], alone)
    averaged = stage.output(stage.unit(image=pictures))
    assert not torch.allclose(stage.evaluate(session), averaged, atol=1e-3)


def test_another_preprocessor_is_refused_in_a_sentence(stage: Stage) -> None:
    for lacking in (
        {RAW_FACE: torch.ones(1, 12)},
        {EVA_LAYERS: torch.ones(1, 5, 9, 16), EVA: torch.ones(1, 3)},
    ):
        with pytest.raises(ControlError, match="is not what PuLID reads"):
            stage.begin(stage.unit(ipadapter_input=[embeddings.write(lacking)]))
