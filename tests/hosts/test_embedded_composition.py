"""Prompts joined by AND, and prompts that change on the way."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from controlstack.errors import ControlError
from controlstack.hosts.embedded import pipeline, prompt_editing, random_nets
from controlstack.hosts.embedded.checkpoint import TRAINED, Checkpoint
from controlstack.hosts.embedded.prompts import encode
from controlstack.joints import Row, RowKind

MAKERS = {"sd1": random_nets.sd1, "sdxl": random_nets.sdxl}
STEPS = 4


@cache
def base(kind: str) -> Checkpoint:
    return Checkpoint(kind, MAKERS[kind](), dict(TRAINED)).to(torch.device("cpu"))


def sample(kind: str, *prompts: str, negative: str = "blurry", guidance: float = 7.0, **settings: object):
    """The final latents, and the prompts that the UNet saw at each evaluation."""
    model = base(kind)
    cfg = guidance > 1
    encoded = encode(model, list(prompts), [negative] * len(prompts), cfg=cfg, evaluations=STEPS)
    drawing = [torch.Generator().manual_seed(5 + i) for i in range(len(prompts))]
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=one) for one in drawing])
    start = pipeline.Pass(encoded, noise, drawing, steps=STEPS, guidance=guidance, **settings)
    seen = []
    with torch.no_grad(), pipeline.watched(model.unet, lambda called: seen.append(dict(called))):
        return pipeline.run(pipeline.build(model, "Euler", start), start, lambda pipe, step: None), seen


@pytest.mark.parametrize(
    ("prompt", "before", "course"),
    [
        # A1111's wiki, "Prompt editing" and "Alternating words", and the examples in its prompt_parser.py,
        # where "[3, x], [10, y]" means x up to evaluation 3, counted from 0, and then y.
        ("test", 0, ["test"] * 10),
        ("a [b:3]", 0, ["a "] * 4 + ["a b"] * 6),
        ("a [[[b]]:2]", 0, ["a "] * 3 + ["a [[b]]"] * 7),
        ("[(a:2):3]", 0, [""] * 4 + ["(a:2)"] * 6),
        ("a [b : c : 1] d", 0, ["a b  d"] * 2 + ["a  c  d"] * 8),
        ("a[b:[c:d:2]:1]e", 0, ["abe"] * 2 + ["ace"] + ["ade"] * 7),
        ("a [unbalanced", 0, ["a [unbalanced"] * 10),
        ("a [b:.5] c", 0, ["a  c"] * 6 + ["a b c"] * 4),
        ("[b::.5] c", 0, ["b c"] * 6 + [" c"] * 4),
        ("((a][:b:c [d:3]", 0, ["((a][:b:c "] * 4 + ["((a][:b:c d"] * 6),
        ("[a|(b:1.1)]", 0, ["a", *["a", "(b:1.1)"] * 4, "a"]),
        ("[fe|]male", 0, ["female", *["female", "male"] * 4, "female"]),
        (r"a \[b:3\] | c", 0, [r"a \[b:3\] | c"] * 10),
        ("a [b] (c:1.2)", 0, ["a [b] (c:1.2)"] * 10),
        # In a high-resolution pass after 10 evaluations of the first.
        ("a [b:.5] c", 10, ["a b c"] * 10),
        ("a [b:1.5] c", 10, ["a  c"] * 6 + ["a b c"] * 4),
        ("a [b:13] c", 10, ["a  c"] * 4 + ["a b c"] * 6),
    ],
)
def test_courses(prompt, before, course):
    assert prompt_editing.course(prompt, 10, before) == course


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat", [("a cat", 1)]),
        ("a cat AND a dog :1.2 AND x:.5", [("a cat", 1), (" a dog", 1.2), (" x", 0.5)]),
        ("a cat :1.5", [("a cat", 1.5)]),
        ("BAND ANDES and", [("BAND ANDES and", 1)]),
        ("(a:1.2)", [("(a:1.2)", 1)]),
    ],
)
def test_joined(prompt, parts):
    assert prompt_editing.joined(prompt) == parts


def test_too_many_joined():
    with pytest.raises(ControlError, match="joins 17 prompts by AND"):
        prompt_editing.joined(" AND ".join("a" * 17))


@given(st.text(alphabet="ab []()|:\\.15", max_size=60) | st.integers(0, 3000).map(lambda n: "[" * n))
def test_any_prompt_has_a_course(prompt):
    course = prompt_editing.course(prompt, 5)
    assert len(course) == 5
    assert all(set(text) <= set(prompt) for text in course)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("guidance", [6.0, 1.0])
def test_and_adds_up(kind, guidance):
    """u + g Σ w (c - u): a prompt joined with itself is that prompt at twice the guidance scale."""

    def at(scale):
        return sample(kind, "a cat", guidance=scale)[0]

    both, seen = sample(kind, "a cat AND a cat", guidance=guidance)
    assert {len(called["sample"]) for called in seen} == {3}
    torch.testing.assert_close(both, at(2 * guidance), rtol=1e-3, atol=1e-3)
    heavier = sample(kind, "a cat :1.5", guidance=guidance)[0]
    torch.testing.assert_close(heavier, at(1.5 * guidance), rtol=1e-3, atol=1e-3)
    nothing = sample(kind, "a cat AND a cat :-1", guidance=guidance)[0]
    negative = sample(kind, "blurry", guidance=1.0)[0]
    torch.testing.assert_close(nothing, negative, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(both, sample(kind, "a cat AND a dog", guidance=guidance)[0], atol=1e-2)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("joined", ["a cat AND a dog :0.7", "[a cat:a dog:2] AND snow"])
def test_a_batch_equals_single_pictures(kind, joined):
    """Also where the pictures of a batch have different numbers of rows."""
    batch, seen = sample(kind, "a house", joined, negative="")
    assert {len(called["sample"]) for called in seen} == {2 + 1 + 2}
    torch.testing.assert_close(batch[:1], sample(kind, "a house", negative="")[0], rtol=1e-3, atol=1e-3)


def test_rows_are_named():
    encoded = encode(base("sd1"), ["a AND b", "c"], ["", ""], cfg=True)
    assert encoded.rows(5) == (
        Row(0, RowKind.UNCOND),
        Row(1, RowKind.UNCOND),
        Row(0, RowKind.COND, 0),
        Row(0, RowKind.COND, 1),
        Row(1, RowKind.COND, 0),
    )


@pytest.mark.parametrize("kind", MAKERS)
def test_every_evaluation_sees_its_prompt(kind):
    """The negative prompt's too, and SDXL's pooled vector; without a change the picture stays to the bit."""
    found, seen = sample(kind, "[a cat:a dog:1]", negative="[one|two]")
    model = base(kind)
    cat, dog = (encode(model, [text], [""], cfg=False) for text in ("a cat", "a dog"))
    one, two = (encode(model, [text], [""], cfg=False) for text in ("one", "two"))
    for called, prompt, negative in zip(seen, (cat, cat, dog, dog), (one, one, two, one), strict=True):
        rows = called["encoder_hidden_states"]
        torch.testing.assert_close(rows, torch.cat([negative.cond, prompt.cond]))
        if kind == "sdxl":
            vectors = called["added_cond_kwargs"]["text_embeds"]
            torch.testing.assert_close(vectors, torch.cat([negative.pooled, prompt.pooled]))
    assert not torch.allclose(found, sample(kind, "a cat", negative="[one|two]")[0], atol=1e-3)
    assert torch.equal(sample(kind, "[a cat::9]")[0], sample(kind, "a cat")[0])


def test_an_empty_negative_prompt_stays_zeros_for_sdxl():
    _, seen = sample("sdxl", "[a cat|a dog]", negative="")
    assert all(not called["encoder_hidden_states"][0].any() for called in seen)
    assert all(not called["added_cond_kwargs"]["text_embeds"][0].any() for called in seen)
