"""Who runs the UNet: one file for each kind of host, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

from controlstack.errors import ControlError
from controlstack.joints import Residuals

if TYPE_CHECKING:
    from controlstack.hosts.webui import WebUI

OnCall = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], "Residuals | None"]
"""Asked at every evaluation with x "R 4 h w", t "R", context "R L D", y "R A" or None; says what to add."""


@cache
def current() -> WebUI:
    """The host that this process runs in."""
    from modules import shared

    if getattr(shared, "cnx_host", None) == "embedded":
        from controlstack.hosts.embedded.adapter import Embedded

        return Embedded()
    raise ControlError(
        "This WebUI is not supported yet",
        "Only the embedded host is",
        "Start it with: python install.py demo",
    )
