"""The other extensions of the host, as far as they concern us: who else wants to be ControlNet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

OWN = Path(__file__).resolve().parents[3]
"""The folder that the extension lies in."""


def rival() -> Path | None:
    """The folder of an active extension that publishes what we do: the incumbent, or another copy of us."""
    from modules import extensions

    return first_rival((Path(extension.path) for extension in extensions.active()), OWN)


def first_rival(active: Iterable[Path], own: Path) -> Path | None:
    """Among folders of active extensions. Of several copies of this extension the first in the order of the
    folders' names works, the others have it for a rival."""
    own = own.resolve()
    return next((f for f in map(Path.resolve, active) if f != own and _is_rival(f, own)), None)


def _is_rival(folder: Path, own: Path) -> bool:
    if (folder / "lib_controlnet" / "controlstack").is_dir():
        return folder.name < own.name
    return all((folder / "scripts" / name).is_file() for name in ("controlnet.py", "external_code.py"))


def refusal(folder: Path) -> str:
    """What people read when the extension does not load."""
    return (
        f"ControlStack is off: the extension {folder.name!r} is ControlNet here, and two of them would both "
        "answer every request. Disable one of the two in the Extensions tab and restart."
    )
