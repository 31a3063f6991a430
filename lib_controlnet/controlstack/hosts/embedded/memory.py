"""How much memory there is, in bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def ram() -> dict[str, Any]:
    """Of the whole machine and of this process; only Linux says so without a package of its own."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        used = _kilobytes(Path("/proc/self/status").read_text().splitlines(), "VmRSS")
    except OSError as error:
        return {"error": str(error)}
    return {"free": _kilobytes(lines, "MemAvailable"), "used": used, "total": _kilobytes(lines, "MemTotal")}


def cuda(device: torch.device) -> dict[str, Any]:
    """Of the graphics card, and what torch has taken of it."""
    free, total = torch.cuda.mem_get_info(device)
    taken = {"current": torch.cuda.memory_allocated(device), "peak": torch.cuda.max_memory_allocated(device)}
    return {"system": {"free": free, "used": total - free, "total": total}, "active": taken}


def _kilobytes(lines: list[str], name: str) -> int:
    (found,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024
