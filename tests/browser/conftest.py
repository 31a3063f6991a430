"""The tests of pages start the embedded host as its own tests do."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(folder) for folder in (HERE, HERE.parent / "hosts") if str(folder) not in sys.path]
