"""Captions as the base was trained to read them: 77 tokens, what is longer is cut, no emphasis."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from controlstack.hosts.embedded.checkpoint import Checkpoint


class Encoded(NamedTuple):
    """Prompts for a UNet: `context` "B 77 D", and SDXL's `pooled` "B P"."""

    context: Tensor
    pooled: Tensor | None

    def rows(self, index: Tensor) -> Encoded:
        """Those of this index, in its order."""
        return Encoded(self.context[index], None if self.pooled is None else self.pooled[index])


class Captions:
    """The base's text encoders."""

    def __init__(self, base: Checkpoint) -> None:
        self._parts, self._xl = base.components, base.is_sdxl
        self._device = base.device
        self.empty = self._encode([""])

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Encoded:
        """Encode a batch, every different caption once."""
        distinct = sorted({text for text in texts if text})
        rows = torch.tensor([distinct.index(text) + 1 if text else 0 for text in texts], device=self._device)
        if not distinct:
            return self.empty.rows(rows)
        found, empty = self._encode(distinct), self.empty
        context = torch.cat([empty.context, found.context])
        if empty.pooled is None or found.pooled is None:
            return Encoded(context, None).rows(rows)
        return Encoded(context, torch.cat([empty.pooled, found.pooled])).rows(rows)

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> Encoded:
        if not self._xl:
            return Encoded(self._run("", texts)[0], None)
        first, second = (self._run(suffix, texts, output_hidden_states=True) for suffix in ("", "_2"))
        context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return Encoded(context, second[0])

    def _run(self, suffix: str, texts: list[str], **more: Any) -> Any:
        tokenizer = self._parts["tokenizer" + suffix]
        length = tokenizer.model_max_length
        tokens = tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return self._parts["text_encoder" + suffix](tokens.input_ids.to(self._device), **more)
