"""Muon: momentum whose matrices are made orthogonal; nets this small need far fewer steps than with AdamW.

Source: K. Jordan, Muon: An optimizer for hidden layers, 2024, for the iteration and its coefficients; J. Liu
et al., arXiv 2502.16982, Muon is scalable for LLM training, for the factor that makes its steps AdamW's size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

_SMALLEST = 16
"""Rows or columns of the narrowest matrix that is made orthogonal; the rest goes AdamW's way."""
_MOMENTUM, _FIRST, _SECOND, _DECAY = 0.95, 0.9, 0.98, 1e-4


class Muon(torch.optim.Optimizer):
    """For the matrices and convolutions among the parameters; AdamW for the others and those in `plain`."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, plain: Iterable[Tensor] = ()) -> None:
        known = {id(parameter) for parameter in plain}
        wanted = [p for p in parameters if p.requires_grad]
        matrices = [p for p in wanted if id(p) not in known and p.ndim > 1 and _narrow(p) >= _SMALLEST]
        chosen = {id(p) for p in matrices}
        groups = [
            {"params": matrices, "orthogonal": True},
            {"params": [p for p in wanted if id(p) not in chosen], "orthogonal": False},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["orthogonal"]:
                self._momentum(moving, group["lr"])
            else:
                for parameter in moving:
                    self._adam(parameter, parameter.grad, group["lr"])

    def _momentum(self, parameters: list[Tensor], rate: float) -> None:
        alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            alike[tuple(parameter.shape)].append(parameter)
        for same in alike.values():  # one product of many small matrices is faster than many products
            slopes = [cast(Tensor, parameter.grad) for parameter in same]
            kept = [self.state[p].setdefault("kept", torch.zeros_like(p)) for p in same]
            torch._foreach_lerp_(kept, slopes, 1 - _MOMENTUM)
            ahead = torch._foreach_lerp(slopes, kept, _MOMENTUM)
            steps = orthogonal(torch.stack([step.flatten(1) for step in ahead]))
            size = 0.2 * max(steps.shape[1:]) ** 0.5
            torch._foreach_mul_(same, 1 - rate * _DECAY)
            torch._foreach_add_(same, list(steps.view(len(same), *same[0].shape)), alpha=-rate * size)

    def _adam(self, parameter: Tensor, slope: Tensor, rate: float) -> None:
        state = self.state[parameter]
        if not state:
            state.update(first=torch.zeros_like(parameter), second=torch.zeros_like(parameter), count=0)
        state["count"] += 1
        first, second, count = state["first"], state["second"], state["count"]
        first.lerp_(slope, 1 - _FIRST)
        second.lerp_(slope.square(), 1 - _SECOND)
        spread = (second / (1 - _SECOND**count)).sqrt_().add_(1e-8)
        parameter.addcdiv_(first / (1 - _FIRST**count), spread, value=-rate)


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest of "n rows columns" with singular values of 1, by Newton–Schulz iterations."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        mixed = torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, mixed, x, beta=3.4445)
    return (x.mT if tall else x).to(matrices)


def _narrow(parameter: Tensor) -> int:
    return min(parameter.shape[0], parameter[0].numel())
