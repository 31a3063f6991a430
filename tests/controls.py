"""Controls at work without a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from controlstack.evaluation import Acting, Evaluation
from controlstack.hosts import OnCall
from controlstack.joints import Call, Control, Prediction, Residuals, Row, Services, Shadow
from controlstack.schedule import Schedule


class Fixed(Control):
    """The same residuals at every evaluation."""

    def __init__(self, given: Residuals) -> None:
        self.given = given

    def residuals(self, call: Call) -> Residuals:
        return self.given


class Linear:
    """Services of a host whose UNet predicts ε halfway between picture and noise."""

    def prediction(self, t: Tensor) -> Prediction:
        half = torch.full((len(t), 1, 1, 1), 0.5**0.5)
        return Prediction(half, half)


def on_call(*controls: Control, schedule: Schedule | None = None, rows: Sequence[Row] = ()) -> OnCall:
    """What a session would answer with these controls; all rows are pictures of their own by default."""

    def answer(x: Tensor, t: Tensor, context: Tensor, y: Tensor | None, shadow: Shadow) -> Evaluation | None:
        named = tuple(rows) or tuple(map(Row, range(len(x))))
        call = Call(x, t, context, y, named, shadow=shadow)
        strength = (schedule or Schedule()).at(call)
        if strength is None:
            return None
        taken = call.take(strength.rows)
        acting = [Acting(control, strength, taken) for control in controls]
        return Evaluation(call, acting, cast(Services, Linear()))

    return answer
