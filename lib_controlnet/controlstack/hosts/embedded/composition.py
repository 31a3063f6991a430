"""Prompts that are several rows of the UNet for one picture, or that change from evaluation to evaluation.

diffusers' pipelines know one prompt a picture. So the UNet gets more rows than its pipeline gave, and the
pipeline one answer a picture: u + Σ w · (c - u), of the negative prompt's row u and those of the prompts c
(Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models", equation 11).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor

from controlstack.hosts import unet_diffusers
from controlstack.joints import Row, RowKind

Text = str | None
"""None is SDXL's missing negative prompt, zeros in place of tokens."""


class Part(NamedTuple):
    """One of the prompts that AND joins: for which picture, how strong, and its text at every evaluation."""

    picture: int
    weight: float
    texts: Sequence[Text]


@dataclass
class Course:
    """What a batch's prompts are at each evaluation of a pass.

    places: of every text that occurs, in the next two
    tokens: "T L D"; vectors: "T P", SDXL's
    parts: picture by picture
    negatives: each picture's text at every evaluation; none where no row of the UNet needs them
    """

    places: Mapping[Text, int]
    tokens: Tensor
    vectors: Tensor | None
    parts: Sequence[Part]
    negatives: Sequence[Sequence[Text]]
    pictures: int

    @property
    def composed(self) -> bool:
        """Whether pictures have more rows than their pipeline knows."""
        return is_composed(self.parts, self.pictures)

    def rows(self, count: int) -> tuple[Row, ...]:
        """The rows of a UNet call of so many."""
        if not self.composed:
            return unet_diffusers.rows(count, self.pictures)
        found = [Row(i, RowKind.UNCOND) for i in range(self.pictures)]
        places = [part.picture for part in self.parts]
        return (*found, *(Row(i, RowKind.COND, places[:n].count(i)) for n, i in enumerate(places)))

    def at(self, evaluation: int, *, uncond: bool) -> list[int]:
        """The places of all rows' texts, those of the negative prompts first."""
        lists = [*(self.negatives if uncond else ()), *(part.texts for part in self.parts)]
        return [self.places[texts[min(evaluation, len(texts) - 1)]] for texts in lists]

    def spread(self, of_pipeline: Tensor) -> Tensor:
        """A tensor with the pipeline's rows, as the UNet's: every picture's negative row, then its parts."""
        if not self.composed:
            return of_pipeline
        conds = of_pipeline[-self.pictures :]
        return torch.cat([of_pipeline[: self.pictures], conds[[part.picture for part in self.parts]]])

    def combined(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of what the UNet says, "R 4 h w": its answers to negative prompts, and to all parts of pictures."""
        uncond, conds = rows[: self.pictures], rows[self.pictures :]
        pictures = torch.tensor([part.picture for part in self.parts], device=rows.device)
        weights = torch.tensor([part.weight for part in self.parts]).to(rows).reshape(-1, 1, 1, 1)
        return uncond, uncond.index_add(0, pictures, weights * (conds - uncond[pictures]))


def is_composed(parts: Sequence[Part], pictures: int) -> bool:
    return len(parts) != pictures or any(part.weight != 1 for part in parts)


class Following:
    """Takes every evaluation of one pipeline call through a course."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._evaluation = count()
        self._guided = False

    def before(self, called: dict[str, Any]) -> None:
        """Put the prompts of this evaluation into the arguments of a UNet call."""
        course = self._course
        self._guided = len(called["sample"]) > course.pictures
        places = course.at(next(self._evaluation), uncond=self._guided or course.composed)
        called["sample"] = course.spread(called["sample"])
        called["encoder_hidden_states"] = course.tokens[places].to(called["encoder_hidden_states"])
        if called.get("timestep_cond") is not None:
            called["timestep_cond"] = course.spread(called["timestep_cond"])
        if course.vectors is not None:
            added = called["added_cond_kwargs"]
            vectors = course.vectors[places].to(added["text_embeds"])
            called["added_cond_kwargs"] = {
                **added,
                "text_embeds": vectors,
                "time_ids": course.spread(added["time_ids"]),
            }

    def after(self, output: Tensor) -> Tensor:
        """The UNet's output with the pipeline's rows."""
        if not self._course.composed:
            return output
        uncond, cond = self._course.combined(output)
        return torch.cat([uncond, cond]) if self._guided else cond
