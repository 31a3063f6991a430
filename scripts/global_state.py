"""What other extensions import; every import path leads to `controlstack.faces.global_state`."""

import sys
from pathlib import Path

PACKAGES = str(Path(__file__).resolve().parents[1] / "lib_controlnet")
if PACKAGES not in sys.path:
    sys.path.append(PACKAGES)

from controlstack.faces import global_state  # noqa: E402


def __getattr__(name):
    return getattr(global_state, name)
