"""Who runs the UNet: one file for each kind of host, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from torch import Tensor

from controlstack.errors import ControlError
from controlstack.evaluation import Evaluation
from controlstack.joints import Shadow

if TYPE_CHECKING:
    from controlstack.hosts.webui import WebUI

OnCall = Callable[[Tensor, Tensor, Tensor, "Tensor | None", Shadow], "Evaluation | None"]
"""Asked at every evaluation with x "R 4 h w", t "R", context "R L D", y "R A" or None, and a way to run the
UNet once more; says what to change."""


@cache
def current() -> WebUI:
    """The host that this process runs in."""
    from modules import shared

    if getattr(shared, "cnx_host", None) == "embedded":
        from controlstack.hosts.embedded.adapter import Embedded

        return Embedded()
    if find_spec("modules_forge"):
        from controlstack.hosts.forge import Forge

        return Forge()
    if not find_spec("modules.scripts_manager"):
        from controlstack.hosts.a1111 import A1111

        return A1111()
    raise ControlError(
        "This WebUI is not supported yet",
        "Only AUTOMATIC1111's stable-diffusion-webui, Forge, reForge and the embedded host are",
        "Use one of them; the second starts with: python install.py demo",
    )
