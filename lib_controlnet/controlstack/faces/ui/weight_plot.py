"""How strong each layer of a model is, drawn as bars."""

from __future__ import annotations

from collections.abc import Sequence

from controlstack.errors import ControlError
from controlstack.faces.ui import values as page
from controlstack.faces.ui.fields import LISTED
from controlstack.faces.ui.stock import Stock
from controlstack.faces.ui.values import Values
from controlstack.unit import WeightType
from controlstack.weight_types import PARTS, layer_weights

_BAR, _GAP, _HEIGHT, _TOP = 14, 4, 60, 2.0
"""px, px, px, and the weight that is as high as the plot"""
_COLOURS = ("#61bdee", "#e2e2e2", "#dc6e55")
"""Encoder, middle, decoder."""


def svg(values: Values, stock: Stock) -> str:
    """The weights of the chosen model's layers; "" where it has none, or where they are not told apart."""
    try:
        match = stock.match(str(values["model"]))
        if match is None or not match.layers:
            return ""
        if values["weight_type"] == LISTED:
            weights = page.unit({**values, "enabled": True}).advanced_weighting
            return bars(weights) if isinstance(weights, list) else ""
        kind = WeightType(values["weight_type"])
        return bars(layer_weights(kind, match.layers, values["weight"], values["composition_weight"]))
    except (ControlError, ValueError):  # said at the unit
        return ""


def bars(weights: Sequence[float]) -> str:
    """One bar for each weight, from the first layer to the last; negative ones hang."""
    parts = PARTS.get(len(weights))
    middle = parts.middle if parts else len(weights)
    zero = _HEIGHT if min(weights, default=0) >= 0 else _HEIGHT / 2
    drawn = []
    for layer, weight in enumerate(weights):
        colour = _COLOURS[(layer >= middle) + (layer > middle)]
        length = min(abs(weight) / _TOP, 1) * zero
        top = zero - length if weight >= 0 else zero
        drawn.append(
            f'<rect x="{layer * (_BAR + _GAP)}" y="{top:.3g}" width="{_BAR}" height="{length:.3g}" '
            f'fill="{colour}"><title>{layer}: {weight:.3g}</title></rect>'
        )
    width = len(weights) * (_BAR + _GAP)
    return (
        f'<svg role="img" aria-label="Weights of layers" viewBox="0 0 {width} {_HEIGHT}" '
        f'width="{width}" height="{_HEIGHT}">{"".join(drawn)}</svg>'
    )
