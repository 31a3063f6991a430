"""The preprocessors: their rooms stand in the extension's `annotator/` folder, one file each."""

from pathlib import Path

_ROOMS = Path(__file__).resolve().parents[3] / "annotator"
__path__.append(str(_ROOMS))
