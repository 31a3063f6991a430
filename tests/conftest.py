"""One thread: the nets of these tests are tiny, and two threads on a shared machine wait for each other."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parents[1] / "lib_controlnet"))
