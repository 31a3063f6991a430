"""Weights of an IP-Adapter's layers by a name, as the incumbent's page and ComfyUI_IPAdapter_plus offer them.

"Style" and "composition" are layers that were found to carry one or the other: InstantStyle (Wang et al.,
arXiv 2404.02733) for SDXL, the two extensions for SD1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controlstack.errors import ControlError
from controlstack.unit import WeightType

WEAK = 0.2
"""What is left of a part that is named weak."""


@dataclass(frozen=True)
class Parts:
    """What the layers of a kind of UNet are for; they are counted in the order in which they run.

    middle: the number of the middle one; encoder before it, decoder behind it
    style: the layers that carry style
    composition: the layers that carry composition, and how much of it each is given
    """

    middle: int
    style: frozenset[int]
    composition: Mapping[int, float]


PARTS = {
    16: Parts(6, frozenset({*range(4), *range(9, 16)}), {4: 0.25, 5: 1.0}),
    11: Parts(4, frozenset({6}), {3: 1.0}),
}
"""By the number of layers: SD1 and SD2 have 16, SDXL 11."""

_EASE: dict[WeightType, Callable[[float], float]] = {
    WeightType.NORMAL: lambda share: 1.0,
    WeightType.EASE_IN: lambda share: 1 - share,
    WeightType.EASE_OUT: lambda share: share,
    WeightType.EASE_IN_OUT: lambda share: 1 - abs(2 * share - 1),
    WeightType.REVERSE_IN_OUT: lambda share: abs(2 * share - 1),
}
"""How strong a layer is, from `FAINT` to 1, by its place among all, both 0..1."""
FAINT = 0.05
"""What the weakest layer of a curve has."""


def layer_weights(
    kind: WeightType, layers: int, weight: float = 1.0, composition: float = 1.0
) -> list[float]:
    """The weights of all layers.

    layers: how many the model has
    weight: the unit's
    composition: in place of `weight` for the layers of composition in the kinds that name both

    Raises ControlError for a kind that tells parts apart which a model of so many layers does not have.
    """
    if kind in _EASE:
        strong = [_EASE[kind](layer / layers) for layer in range(layers)]
        return [weight * (FAINT + (1 - FAINT) * share) for share in strong]
    if layers not in PARTS:
        raise ControlError(
            f"The layers of this control model cannot be weighed by {kind.value!r}",
            "That is for IP-Adapters",
            f"Choose one of {', '.join(repr(one.value) for one in _EASE)}, or send a list of numbers",
        )
    parts = PARTS[layers]
    return [_weight(kind, parts, layer, weight, composition) for layer in range(layers)]


def _weight(kind: WeightType, parts: Parts, layer: int, weight: float, composition: float) -> float:
    composes = parts.composition.get(layer, 0.0)
    if kind is WeightType.COMPOSITION:
        return weight * composes
    if kind is WeightType.STYLE:
        return weight if layer in parts.style else 0.0
    if kind is WeightType.STRONG_STYLE:
        return 0.0 if composes else weight
    if kind is WeightType.STYLE_AND_COMPOSITION:
        return composition * composes if composes else weight if layer in parts.style else 0.0
    if kind is WeightType.STRONG_STYLE_AND_COMPOSITION:
        return composition if composes else weight
    weak = {
        WeightType.WEAK_INPUT: layer < parts.middle,
        WeightType.WEAK_MIDDLE: layer == parts.middle,
        WeightType.WEAK_OUTPUT: layer > parts.middle,
        WeightType.STRONG_MIDDLE: layer != parts.middle,
    }
    return weight * WEAK if weak[kind] else weight
