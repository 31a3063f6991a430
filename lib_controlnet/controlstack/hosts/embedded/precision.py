"""In which precision the host computes."""

from __future__ import annotations

import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def usual(device: torch.device) -> torch.dtype:
    """Half on CUDA; elsewhere single, which every operator there knows."""
    return torch.float16 if device.type == "cuda" else torch.float32
