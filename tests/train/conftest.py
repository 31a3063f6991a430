"""Helpers of neighbouring folders of tests."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(folder) for folder in (TESTS, TESTS / "hosts") if str(folder) not in sys.path]
