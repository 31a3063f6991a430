"""How a weight runs over a sampling pass, written as `0@0, 1@0.2, 1@0.6, 0@1`."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

from controlstack.errors import ControlError

SMOOTH = "smooth"
_POINT = re.compile(r"(-?\d*\.?\d+)@(\d*\.?\d+)")
MOST = 10.0
"""A factor beyond this is a slip of the pen."""


@dataclass(frozen=True)
class Curve:
    """Factors at shares of a pass, straight lines or smooth steps between them, level before and after.

    points: (share 0..1, factor), the shares rising; two points of one share make a jump
    smooth: rise and fall as 3u² - 2u³, without corners
    """

    points: tuple[tuple[float, float], ...]
    smooth: bool = False

    @classmethod
    def parse(cls, text: str) -> Curve:
        """Read `factor@share, …`, at will with the word `smooth` behind it and without commas. Raises
        ControlError."""
        body = text.strip()
        smooth = body.lower().endswith(SMOOTH)
        if smooth:
            body = body[: -len(SMOOTH)].rstrip(" ,")
        found = [_POINT.fullmatch(part) for part in re.split(r"\s*,\s*|\s+", body)]
        points = tuple((float(match[2]), float(match[1])) for match in found if match)
        shares = [share for share, _ in points]
        if len(points) < len(found) or shares != sorted(shares) or shares[-1] > 1:
            raise ControlError(
                f"The weight curve {text!r} cannot be read",
                "A curve is a list of factor@share, the shares rising from 0 to 1",
                "Write for example: 0@0, 1@0.2, 1@0.6, 0@1 smooth",
            )
        if any(abs(factor) > MOST for _, factor in points):
            raise ControlError(
                f"The weight curve {text!r} has a factor beyond {MOST:g}",
                "Factors multiply the unit's weight",
                f"Stay within -{MOST:g} and {MOST:g}",
            )
        return cls(points, smooth)

    def __str__(self) -> str:
        points = ", ".join(f"{factor:g}@{share:g}" for share, factor in self.points)
        return f"{points} {SMOOTH}" if self.smooth else points

    def at(self, share: float) -> float:
        """The factor at a share of the pass, 0..1."""
        nth = bisect_right(self.points, share, key=lambda point: point[0])
        if nth in {0, len(self.points)}:
            return self.points[max(nth - 1, 0)][1]
        (before, low), (after, high) = self.points[nth - 1], self.points[nth]
        u = (share - before) / (after - before)
        if self.smooth:
            u = u * u * (3 - 2 * u)
        return low + u * (high - low)

    @property
    def never(self) -> bool:
        """Whether it is 0 all the way."""
        return not any(factor for _, factor in self.points)
