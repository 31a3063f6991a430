"""Prompts as a UNet reads them: chunks of 75 tokens, each encoded on its own and weighted by its emphasis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from controlstack.hosts import unet_diffusers
from controlstack.hosts.embedded import emphasis, prompt_editing
from controlstack.hosts.embedded.checkpoint import Checkpoint
from controlstack.hosts.embedded.composition import Course, Part, Text, is_composed
from controlstack.joints import Row

CHUNK = 75
"""Tokens that CLIP reads between its two marks."""


@dataclass
class Prompts:
    """Encoded prompts of a batch: "B 77n D"; `pooled` is SDXL's "B P". Negative ones are None without CFG.

    course: what they become on the way; then the others are the first prompts of the first evaluation
    """

    cond: Tensor
    uncond: Tensor | None
    pooled: Tensor | None = None
    pooled_uncond: Tensor | None = None
    course: Course | None = None

    def rows(self, count: int) -> tuple[Row, ...]:
        """The rows of a UNet call of so many."""
        if self.course is not None:
            return self.course.rows(count)
        return unet_diffusers.rows(count, len(self.cond))

    def arguments(self) -> dict[str, Any]:
        """As diffusers' pipelines call them."""
        named = {"prompt_embeds": self.cond, "negative_prompt_embeds": self.uncond}
        if self.pooled is not None:
            named |= {
                "pooled_prompt_embeds": self.pooled,
                "negative_pooled_prompt_embeds": self.pooled_uncond,
            }
        return named


class Chunk(NamedTuple):
    """Tokens with both marks, and the weight of each."""

    ids: list[int]
    weights: list[float]


def encode(
    model: Checkpoint,
    prompts: list[str],
    negatives: list[str],
    *,
    cfg: bool,
    clip_skip: int = 1,
    evaluations: int = 1,
    before: int = 0,
) -> Prompts:
    """Encode the prompts of a batch, all to the length of the longest: the others get empty chunks.

    clip_skip: SD1's text encoder stops at this layer from its end, 1 is the last.
    evaluations, before: of this pass and of the first one, for `prompt_editing.course`
    SDXL was trained with zeros where all negative prompts are empty.
    """
    parts = [
        Part(i, weight, prompt_editing.course(text, evaluations, before))
        for i, prompt in enumerate(prompts)
        for text, weight in prompt_editing.joined(prompt)
    ]
    composed = is_composed(parts, len(prompts))
    unwanted = [prompt_editing.course(text, evaluations, before) for text in negatives]
    if composed or any(len(set(texts)) > 1 for texts in [*(part.texts for part in parts), *unwanted]):
        return _moving(model, parts, unwanted if cfg or composed else [], cfg, clip_skip)
    return _still(model, [str(part.texts[0]) for part in parts], [t[0] for t in unwanted], cfg, clip_skip)


def _still(model: Checkpoint, prompts: list[str], negatives: list[str], cfg: bool, clip_skip: int) -> Prompts:
    length = _longest(model, [*prompts, *negatives])
    cond, pooled = _encode(model, prompts, length, clip_skip)
    if not cfg:
        return Prompts(cond, None, pooled, None)
    if _means_zeros(model, negatives):
        return Prompts(cond, torch.zeros_like(cond), pooled, torch.zeros_like(pooled))
    uncond, pooled_uncond = _encode(model, negatives, length, clip_skip)
    return Prompts(cond, uncond, pooled, pooled_uncond)


def _moving(
    model: Checkpoint, parts: list[Part], negatives: list[list[str]], cfg: bool, clip_skip: int
) -> Prompts:
    unwanted: list[Sequence[Text]] = [*negatives]
    if negatives and _means_zeros(model, [text for texts in negatives for text in texts]):
        unwanted = [[None]] * len(negatives)
    lists = [*(part.texts for part in parts), *unwanted]
    places = {text: n for n, text in enumerate(dict.fromkeys(text for texts in lists for text in texts))}
    texts = [text or "" for text in places]
    tokens, pooled = _encode(model, texts, _longest(model, texts), clip_skip)
    if None in places:
        tokens[places[None]] = pooled[places[None]] = 0
    pictures = 1 + parts[-1].picture
    course = Course(places, tokens, pooled, parts, unwanted, pictures)
    first = [next(places[p.texts[0]] for p in parts if p.picture == i) for i in range(pictures)]
    cond, uncond = first, [places[texts[0]] for texts in unwanted] if cfg else None

    def at(rows: list[int] | None, table: Tensor | None) -> Any:
        return None if rows is None or table is None else table[rows]

    return Prompts(at(cond, tokens), at(uncond, tokens), at(cond, pooled), at(uncond, pooled), course)


def _means_zeros(model: Checkpoint, negatives: list[str]) -> bool:
    return model.is_sdxl and model.zero_empty and not any(negatives)


def _longest(model: Checkpoint, texts: list[str]) -> int:
    return max(len(chunks(model.components["tokenizer"], text)) for text in texts)


def chunks(tokenizer: Any, prompt: str) -> list[Chunk]:
    """The prompt's chunks, at least one. What pads a chunk has weight 1."""
    found = []
    for part in emphasis.parse(prompt):
        tokens = [
            (token, weight)
            for text, weight in part
            for token in tokenizer(text, add_special_tokens=False).input_ids
        ]
        found += [_chunk(tokenizer, tokens[i : i + CHUNK]) for i in range(0, max(len(tokens), 1), CHUNK)]
    return found


def _chunk(tokenizer: Any, tokens: list[tuple[int, float]]) -> Chunk:
    padding = CHUNK - len(tokens)
    ids = [
        tokenizer.bos_token_id,
        *(token for token, _ in tokens),
        tokenizer.eos_token_id,
        *[tokenizer.pad_token_id] * padding,
    ]
    return Chunk(ids, [1.0, *(weight for _, weight in tokens), *[1.0] * (padding + 1)])


def _encode(model: Checkpoint, texts: list[str], length: int, clip_skip: int) -> tuple[Tensor, Any]:
    """The texts as `length` chunks each, "B 77n D", and SDXL's pooled first chunk."""
    hidden, pooled = [], None
    for suffix in ("", "_2") if model.is_sdxl else ("",):
        tokenizer, encoder = (model.components[name + suffix] for name in ("tokenizer", "text_encoder"))
        empty = _chunk(tokenizer, [])
        of_text = [chunks(tokenizer, text) for text in texts]
        columns = [[c[i] if i < len(c) else empty for c in of_text] for i in range(length)]
        encoded = [_encode_chunk(model, encoder, column, clip_skip) for column in columns]
        hidden.append(torch.cat([one for one, _ in encoded], dim=1))
        pooled = encoded[0][1]
    return torch.cat(hidden, dim=-1), pooled


def _encode_chunk(model: Checkpoint, encoder: Any, column: list[Chunk], skip: int) -> tuple[Tensor, Any]:
    ids = torch.tensor([chunk.ids for chunk in column], device=model.device)
    if model.is_sdxl:
        output = encoder(ids, output_hidden_states=True)
        return _emphasised(output.hidden_states[-2], column), output[0]
    if not model.is_sd1 or skip <= 1:
        return _emphasised(encoder(ids)[0], column), None
    states = encoder(ids, output_hidden_states=True).hidden_states
    body = getattr(encoder, "text_model", encoder)  # transformers 5.6 dropped this level
    return _emphasised(body.final_layer_norm(states[-min(skip, len(states))]), column), None


def _emphasised(hidden: Tensor, column: list[Chunk]) -> Tensor:
    """Every token times its weight, then all of the chunk scaled back to its mean: A1111's "Original"."""
    rows = []
    for row, chunk in zip(hidden, column, strict=True):
        if set(chunk.weights) == {1.0}:
            rows.append(row)
            continue
        weighted = row * torch.tensor(chunk.weights).to(row)[:, None]
        rows.append(weighted * (row.mean() / weighted.mean()))
    return torch.stack(rows)
