"""The logger, by the name under which reForge's own IP-Adapter imports it from the built-in ControlNet."""

from __future__ import annotations

from controlstack.log import log as logger

__all__ = ["logger"]
