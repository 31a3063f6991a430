"""What other extensions import; every import path leads to `controlstack.faces.external_code`."""

import sys
from pathlib import Path

PACKAGES = str(Path(__file__).resolve().parents[1] / "lib_controlnet")
if PACKAGES not in sys.path:
    sys.path.append(PACKAGES)

from controlstack.faces.external_code import *  # noqa: E402, F403
