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
    """Among folders of active extensions, in the host's order and by the names they have there.

    Of several copies of this extension the first by name works; the others have it for a rival.
    """
    folders = list(active)
    name = next((folder.name for folder in folders if folder.samefile(own)), own.name)
    return next((folder for folder in folders if not folder.samefile(own) and _is_rival(folder, name)), None)


def _is_rival(folder: Path, name: str) -> bool:
    if (folder / "lib_controlnet" / "controlstack").is_dir():
        return folder.name < name
    return all((folder / "scripts" / script).is_file() for script in ("controlnet.py", "external_code.py"))


def refusal(folder: Path) -> str:
    """What people read when the extension does not load."""
    return (
        f"ControlStack is off: the extension {folder.name!r} is ControlNet here, and two of them would both "
        "answer every request. Disable one of the two in the Extensions tab and restart."
    )
