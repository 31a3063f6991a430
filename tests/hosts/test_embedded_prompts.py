"""How the embedded host reads prompts: emphasis, chunks, clip skip."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModel

from controlstack.hosts.embedded import emphasis, random_nets
from controlstack.hosts.embedded.checkpoint import TRAINED, Checkpoint
from controlstack.hosts.embedded.prompts import chunks, encode
from controlstack.hosts.embedded.samplers import scheduler

KINDS = {
    "sd1": (random_nets.sd1, StableDiffusionPipeline, {"safety_checker": None, "feature_extractor": None}),
    "sd2": (random_nets.sd2, StableDiffusionPipeline, {"safety_checker": None, "feature_extractor": None}),
    "sdxl": (random_nets.sdxl, StableDiffusionXLPipeline, {"add_watermarker": False}),
}


@cache
def base(kind: str) -> Checkpoint:
    return Checkpoint(kind, KINDS[kind][0](), dict(TRAINED)).to(torch.device("cpu"))


def theirs(kind: str, text: str, **settings: object) -> list[torch.Tensor]:
    """diffusers' own encoding: the prompt's tokens and, for SDXL, its pooled vector."""
    _, pipeline, extra = KINDS[kind]
    pipe = pipeline(**base(kind).components, scheduler=scheduler("Euler", TRAINED), **extra)
    asked = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False, **settings}
    encoded = pipe.encode_prompt(prompt=text, device=torch.device("cpu"), **asked)
    return [encoded[0], encoded[2]] if kind == "sdxl" else [encoded[0], None]


def ours(kind: str, text: str, negative: str = "blurry", **settings: object):
    with torch.no_grad():
        return encode(base(kind), [text], [negative], cfg=True, **settings)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        # The table of A1111's wiki, "Attention/emphasis".
        ("a (word)", [[("a ", 1), ("word", 1.1)]]),
        ("a ((word))", [[("a ", 1), ("word", 1.21)]]),
        ("a [word]", [[("a ", 1), ("word", 1 / 1.1)]]),
        ("a (word:1.5)", [[("a ", 1), ("word", 1.5)]]),
        ("a (word:0.25)", [[("a ", 1), ("word", 0.25)]]),
        (r"a \(word\)", [[("a (word)", 1)]]),
        # Its documented rules: nesting multiplies, an open bracket reaches to the end, the rest is plain.
        ("(a (b:2) c:1.5)", [[("a ", 1.5), ("b", 3), (" c", 1.5)]]),
        ("a (b", [[("a ", 1), ("b", 1.1)]]),
        ("a) b] c:1.2)", [[("a) b] c:1.2)", 1)]]),
        ("time: 12:30", [[("time: 12:30", 1)]]),
        ("a ( b : .5 ) c", [[("a ", 1), (" b ", 0.5), (" c", 1)]]),
        ("(one BREAK two) BREAK three", [[("one", 1.1)], [("two", 1.1)], [("three", 1)]]),
        ("BREAKFAST", [[("BREAKFAST", 1)]]),
        ("", [[]]),
    ],
)
def test_emphasis(prompt, pieces):
    found = emphasis.parse(prompt)
    assert [[text for text, _ in part] for part in found] == [[text for text, _ in part] for part in pieces]
    weights = [weight for part in pieces for _, weight in part]
    assert [weight for part in found for _, weight in part] == pytest.approx(weights)


@given(st.text().filter(lambda text: not set(text) & set(r"\()[]:") and "BREAK" not in text))
def test_plain_text_stays_as_it_is(text):
    assert emphasis.parse(text) == [[(text, 1.0)] if text else []]


@given(st.text(alphabet="ab ()[]:\\.12", max_size=40))
def test_any_prompt_is_read(text):
    """Nothing but brackets, weights and backslashes gets lost."""
    (part,) = emphasis.parse(text)
    kept = "".join(piece for piece, _ in part)
    assert [c for c in kept if c in "ab "] == [c for c in text if c in "ab "] or ":" in text
    assert all(weight > 0 or ":" in text for _, weight in part)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_prompt_is_read_in_chunks(kind):
    """Each as diffusers reads it alone; what is shorter gets chunks of an empty prompt."""
    found = ours(kind, "cat " * 75 + "dog " * 80)
    parts = [theirs(kind, text) for text in ("cat " * 75, "dog " * 75, "dog " * 5)]
    assert torch.equal(found.cond, torch.cat([tokens for tokens, _ in parts], dim=1))
    empty = theirs(kind, "")[0]
    assert torch.equal(found.uncond, torch.cat([theirs(kind, "blurry")[0], empty, empty], dim=1))
    if kind == "sdxl":
        assert torch.equal(found.pooled, parts[0][1])


def test_75_tokens_are_one_chunk_and_break_makes_two():
    tokenizer = base("sd1").components["tokenizer"]
    assert [len(chunks(tokenizer, text)) for text in ("", "cat " * 75, "cat " * 76, "cat BREAK dog")] == [
        1,
        1,
        2,
        2,
    ]
    assert all(len(chunk.ids) == len(chunk.weights) == 77 for chunk in chunks(tokenizer, "cat " * 76))


@pytest.mark.parametrize("kind", KINDS)
def test_emphasis_scales_tokens_and_keeps_the_mean(kind):
    """A1111's "Original": tokens times their weights, then all times old mean / new mean, per encoder."""
    plain, pooled = theirs(kind, "a red cat")
    expected = []
    for part in plain.split(64, dim=-1):  # SDXL's encoders side by side
        weighted = part.clone()
        weighted[:, 2] *= 1.5  # start, a, red
        expected.append(weighted * part.mean() / weighted.mean())
    found = ours(kind, "a (red:1.5) cat")
    torch.testing.assert_close(found.cond, torch.cat(expected, dim=-1))
    if pooled is not None:
        assert torch.equal(found.pooled, pooled)


def test_clip_skip_counts_from_1():
    """2 leaves the last layer out: what a text model that was built without it says."""
    whole = base("sd1").components["text_encoder"]
    config = CLIPTextConfig.from_dict({**whole.config.to_dict(), "num_hidden_layers": 1})
    shorter = CLIPTextModel(config).eval()
    shorter.load_state_dict({name: whole.state_dict()[name] for name in shorter.state_dict()})
    ids = base("sd1").components["tokenizer"](["a cat"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(ours("sd1", "a cat", clip_skip=2).cond, shorter(ids)[0])
    assert torch.equal(ours("sd1", "a cat", clip_skip=1).cond, theirs("sd1", "a cat")[0])
    assert torch.equal(ours("sdxl", "a cat", clip_skip=2).cond, theirs("sdxl", "a cat")[0])
