"""Infotexts are read back as they were written. No host is needed."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from controlstack.hosts.embedded.modules.infotext_utils import (
    create_infotext,
    parse_generation_parameters,
    quote,
    unquote,
)

A1111 = """a cat, (red:1.2)
on two lines
Negative prompt: blurry, "bad"
and more
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x768, Model: v1-5, \
ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1", Version: v1.10.1"""
"""As A1111 1.10.1 with sd-webui-controlnet writes it."""


def test_one_of_a1111s():
    assert parse_generation_parameters(A1111) == {
        "Prompt": "a cat, (red:1.2)\non two lines",
        "Negative prompt": 'blurry, "bad"\nand more',
        "Steps": "20",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "7",
        "Seed": "1",
        "Size-1": "512",
        "Size-2": "768",
        "Model": "v1-5",
        "ControlNet 0": "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1",
        "Version": "v1.10.1",
    }


def test_a_prompt_alone():
    assert parse_generation_parameters("a cat, time: noon") == {
        "Prompt": "a cat, time: noon",
        "Negative prompt": "",
    }


@given(st.text())
def test_quoting(text):
    assert unquote(quote(text)) == text or (text[:1] == text[-1:] == '"' and quote(text) == text)


LINES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=30).map(str.strip)
PROMPTS = LINES.filter(lambda line: not line.startswith("Negative prompt:"))
VALUES = LINES.filter(lambda v: v and not v.startswith('"') and "x" not in v)


@given(
    PROMPTS,
    PROMPTS,
    st.dictionaries(st.from_regex(r"[A-Za-z]\w{0,8} \d", fullmatch=True), VALUES, max_size=3),
)
def test_a_round_trip(prompt, negative, extra):
    job = SimpleNamespace(
        steps=20,
        sampler_name="Euler",
        scheduler="Automatic",
        cfg_scale=7.0,
        width=512,
        height=768,
        clip_skip=1,
        subseed_strength=0,
        all_prompts=[prompt],
        all_negative_prompts=[negative],
        all_seeds=[3],
        all_subseeds=[4],
        sd_model=SimpleNamespace(name="v1-5"),
        extra_generation_params=extra,
    )
    found = parse_generation_parameters(create_infotext(job, 0))
    assert (found["Prompt"], found["Negative prompt"]) == (prompt, negative)
    assert {key: found[key] for key in extra} == extra
    assert (found["Seed"], found["Size-1"], found["Size-2"]) == ("3", "512", "768")
