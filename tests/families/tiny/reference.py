"""A family without files: all that it needs is a picture."""

from __future__ import annotations

FAMILY = "reference by both"
UNIT = {"module": "reference_adain+attn"}
