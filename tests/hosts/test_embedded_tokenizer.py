"""CLIP's tokenizer from its vocabulary file, against ids that others publish."""

from __future__ import annotations

import pytest

from controlstack.hosts.embedded import tokenizer


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (
            "a photo of a cat",
            [320, 1125, 539, 320, 2368],
        ),  # the example of CLIP's documentation in transformers
        ("Hello World!", [3306, 1002, 256]),  # openai/CLIP, notebooks/Interacting_with_CLIP.ipynb
        (
            "This is a test",
            [589, 533, 320, 1628],
        ),  # transformers, tests/models/clip/test_tokenization_clip.py
        ("", []),
    ],
)
def test_ids(text, ids):
    assert tokenizer.clip()(text).input_ids == [49406, *ids, 49407]


def test_open_clip_pads_with_token_0():
    padded = {"padding": "max_length", "max_length": 6}
    assert tokenizer.clip()("hi", **padded).input_ids == [49406, 1883, *[49407] * 4]
    assert tokenizer.clip(pad="!")("hi", **padded).input_ids == [49406, 1883, 49407, 0, 0, 0]


def test_prompts_end_at_77_tokens():
    clip = tokenizer.clip()
    cut = clip("cat " * 100, truncation=True, max_length=clip.model_max_length).input_ids
    assert (len(clip), len(cut), cut[-1]) == (49408, 77, 49407)
