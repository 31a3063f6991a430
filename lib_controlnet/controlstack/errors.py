"""The one exception that people see."""

from __future__ import annotations


class ControlError(Exception):
    """A mistake that the user can mend, in three short sentences: what is wrong, why, how to mend it.

    `unit` is the unit's position as the user sees it (0 for the first tab or the first API argument); the
    host adds it when the place that raised did not know it.
    """

    def __init__(self, what: str, why: str = "", fix: str = "", *, unit: int | None = None) -> None:
        super().__init__(what, why, fix)
        self.what, self.why, self.fix, self.unit = what, why, fix, unit

    def __str__(self) -> str:
        where = "ControlNet" if self.unit is None else f"ControlNet unit {self.unit}"
        return f"{where}: " + " ".join(_sentence(part) for part in (self.what, self.why, self.fix) if part)

    def in_unit(self, unit: int) -> ControlError:
        """The same error, naming the unit it belongs to unless it already does."""
        if self.unit is None:
            self.unit = unit
        return self


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."
