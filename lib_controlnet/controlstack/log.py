"""The extension's logger: one name, one INFO line per unit, never the root logger."""

from __future__ import annotations

import logging

log = logging.getLogger("ControlStack")
