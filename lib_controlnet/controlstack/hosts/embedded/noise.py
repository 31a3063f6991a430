"""Noise between two seeds."""

from __future__ import annotations

from torch import Tensor


def slerp(share: float, low: Tensor, high: Tensor) -> Tensor:
    """From one noise "C h w" to another along a sphere, which keeps the variance: a "variation seed".

    The angle is measured column by column, as A1111 does. Where the two point the same way it is linear.
    Source: Shoemake 1985, slerp = sin((1 - t) omega) / sin omega low + sin(t omega) / sin omega high.
    """
    cosine = (low / low.norm(dim=1, keepdim=True) * (high / high.norm(dim=1, keepdim=True))).sum(
        1, keepdim=True
    )
    if cosine.mean() > 0.9995:
        return low * (1 - share) + high * share
    omega = cosine.clamp(-1, 1).acos()
    return (((1 - share) * omega).sin() * low + (share * omega).sin() * high) / omega.sin()
