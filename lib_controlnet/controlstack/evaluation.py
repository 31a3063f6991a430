"""All controls of a job at one evaluation of the UNet: the sums that the host puts in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from controlstack.joints import (
    Attention,
    Block,
    Call,
    Control,
    Residuals,
    Role,
    Services,
    Site,
    row_index,
)
from controlstack.schedule import Strength


@dataclass(frozen=True)
class Acting:
    """One control at one evaluation; `call` has only the rows on which it acts."""

    control: Control
    strength: Strength
    call: Call


def fused(acting: Sequence[Acting]) -> list[Acting]:
    """Controls that one call of a network can serve act as one, their weights inside."""
    groups: list[list[Acting]] = []
    for one in acting:
        fitting = (group for group in groups if all(_fuse(other, one) for other in group))
        if (group := next(fitting, None)) is None:
            groups.append([one])
        else:
            group.append(one)
    return [group[0] if len(group) == 1 else _together(group) for group in groups]


def _fuse(one: Acting, other: Acting) -> bool:
    if not one.control.fuses(other.control):
        return False
    return replace(one.strength, weight=1.0) == replace(other.strength, weight=1.0)


def _together(group: Sequence[Acting]) -> Acting:
    strength = replace(group[0].strength, weight=1.0)
    weights = [1.0 if strength.layers else one.strength.weight for one in group]
    parts = [(one.control, weight) for one, weight in zip(group, weights, strict=True)]
    return Acting(group[0].control.together(parts), strength, group[0].call)


class Evaluation:
    """What the acting controls change, joint by joint. None everywhere means: leave it as it is."""

    residuals: Residuals | None = None

    def __init__(self, call: Call, acting: Sequence[Acting], services: Services) -> None:
        self.call, self._acting, self._services = call, acting, services
        self._shadow()
        for one in acting:
            if (part := one.control.residuals(one.call)) is not None:
                scaled = one.strength.apply(part)
                self.residuals = scaled if self.residuals is None else self.residuals + scaled

    def timestep(self, embedding: Tensor) -> Tensor | None:
        """What is added to the embedding "R E" of the timestep."""
        total: Tensor | None = None
        for one in self._acting:
            own = embedding[row_index(one.strength.rows)]
            if (change := one.control.timestep(own, one.call)) is not None:
                total = _plus(total, one.strength.change(change, one.strength.factor(lambda: 0)))
        return total

    def context(self) -> tuple[Tensor, Tensor | None]:
        """The prompt tokens "R L D" and SDXL's vector "R A", with what controls change."""
        tokens, vector = self.call.context, self.call.y
        for one in self._acting:
            if (change := one.control.prompt(one.call)) is not None:
                factor = one.strength.factor(lambda: 0)
                tokens = tokens + one.strength.change(change, factor, spatial=False).to(tokens)
            if vector is not None and (change := one.control.vector(one.call)) is not None:
                scaled = one.strength.change(change, one.strength.factor(lambda: 0))
                vector = vector + scaled.to(vector)
        return tokens, vector

    def channels(self, given: Tensor) -> Tensor:
        """The extra channels "R c h w" of the UNet's input, replaced by those of the last control that
        brings some."""
        for one in self._acting:
            if (own := one.control.channels(one.call)) is not None:
                given = given.clone()
                given[row_index(one.strength.rows)] = own.to(given)
        return given

    def projected(self, site: Site, role: Role, h: Tensor) -> Tensor | None:
        """What is added to the input "R N C" of one projection of an attention layer."""
        return self._sum(
            site,
            lambda one: one.control.projected(site, role, h[row_index(one.strength.rows)], one.call),
            spatial=role == "q" or not site.cross,
        )

    def attended(self, site: Site, attention: Attention) -> Tensor | None:
        """What is added to an attention layer's result "R N C", in front of the output projection."""
        return self._sum(
            site, lambda one: one.control.attended(site, attention.take(one.strength.rows), one.call)
        )

    def entering(self, block: Block, h: Tensor) -> Tensor | None:
        """What is added to a block's input "R C h w"."""
        return self._sum(
            block, lambda one: one.control.entering(block, h[row_index(one.strength.rows)], one.call)
        )

    def leaving(self, block: Block, h: Tensor) -> Tensor | None:
        """What is added to a block's output "R C h w"."""
        return self._sum(
            block, lambda one: one.control.leaving(block, h[row_index(one.strength.rows)], one.call)
        )

    def output(self, output: Tensor) -> Tensor:
        """The UNet's output "R 4 h w" after controls changed the picture that it predicts."""
        prediction = self._services.prediction(self.call.t)
        x0 = prediction.denoised(self.call.x.float(), output.float())
        change: Tensor | None = None
        for one in self._acting:
            if (part := one.control.denoised(x0[row_index(one.strength.rows)], one.call)) is not None:
                change = _plus(change, one.strength.change(part, one.strength.factor(lambda: 0)))
        return output if change is None else output + prediction.output_change(change).to(output)

    def _sum(
        self,
        place: Site | Block,
        changes: Callable[[Acting], Tensor | None],
        *,
        spatial: bool = True,
    ) -> Tensor | None:
        total: Tensor | None = None
        for one in self._acting:
            if (change := changes(one)) is not None:
                factor = one.strength.factor(partial(one.control.layer, place))
                total = _plus(total, one.strength.change(change, factor, spatial=spatial))
        return total

    def _shadow(self) -> None:
        """One pass with controls off for all who ask for one, their latents side by side."""
        latents: list[Tensor] = []
        listeners: list[tuple[Control, slice]] = []
        rows: list[int] = []
        for one in self._acting:
            if (own := one.control.shadow(one.call)) is not None:
                listeners.append((one.control, slice(len(rows), len(rows) + len(own))))
                rows += len(own) // len(one.strength.rows) * list(one.strength.rows)
                latents.append(own)
        if latents and self.call.shadow is not None:
            self.call.shadow(torch.cat(latents), rows, _Listeners(listeners))


@dataclass(frozen=True)
class _Listeners:
    """Hands each control its own rows of a shadow pass."""

    listeners: Sequence[tuple[Control, slice]]

    def attended(self, site: Site, attention: Attention) -> None:
        for control, rows in self.listeners:
            control.overheard(site, attention.take(range(rows.start, rows.stop)))

    def leaving(self, block: Block, h: Tensor) -> None:
        for control, rows in self.listeners:
            control.overheard_block(block, h[rows])


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part
