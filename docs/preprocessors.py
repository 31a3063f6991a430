"""Writes `preprocessors.md` beside itself from what preprocessors declare: python docs/preprocessors.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from controlstack import preprocess
from controlstack.downloads import File
from controlstack.preprocess import RESOLUTION, Preprocessor, Slider

HERE = Path(__file__).parent

_TOP = """# Preprocessors

Written from what they declare by `docs/preprocessors.py`. Names and labels are both understood wherever a
preprocessor is asked for. Resolution, where it is a slider, is 64 to 2048 px of the map's short side, 512 if
nothing is said; other sliders are given as least … most (default).

Weights are looked for in the folder of preprocessors that the user set, in Forge's
`models/ControlNetPreprocessor`, in the extension's `annotator/downloads` and in that of sd-webui-controlnet
beside it: in the subfolder named here, or without one. What is not there is downloaded at first use into the
first of these folders and compared with the published size and sha256; `HF_ENDPOINT` names another hub, and
`HF_HUB_OFFLINE=1` downloads nothing. `python -m controlstack.models list|fetch|verify` does the same by hand.
Weights whose licence forbids some uses are marked *to be placed by you*, and never downloaded.

Networks come from the packages in the last column, which are imported when the preprocessor runs. One that is
absent or broken stops the preprocessors that name it and no others."""


def page() -> str:
    """The shelf as a page for people."""
    shelf = preprocess.everything()
    return "\n\n".join([_TOP, _table(shelf), "## Weights", _weights(shelf)]) + "\n"


def _table(shelf: list[Preprocessor]) -> str:
    rows = ["| name | label | control types | sliders | network | weights | packages |", 7 * "|---" + "|"]
    return "\n".join([*rows, *map(_row, shelf)])


def _row(p: Preprocessor) -> str:
    cells = (
        f"`{p.name}`",
        "" if p.label == p.name else p.label,
        ", ".join(p.control_types),
        ", ".join(_sliders(p)),
        p.network,
        ", ".join(f"`{file.folder}/{file.name}`" for file in p.files),
        ", ".join(p.packages),
    )
    return f"| {' | '.join(cells)} |"


def _sliders(p: Preprocessor) -> Iterator[str]:
    if p.resolution == RESOLUTION:
        yield "Resolution"
    elif p.resolution:
        yield _slider(p.resolution)
    yield from (_slider(slider) for slider in (p.a, p.b) if slider)


def _slider(slider: Slider) -> str:
    return f"{slider.label} {slider.minimum:g} … {slider.maximum:g} ({slider.value:g})"


def _weights(shelf: list[Preprocessor]) -> str:
    users: dict[File, list[str]] = {}
    for p in shelf:
        for file in (*p.files, *p.instead):
            users.setdefault(file, []).append(f"`{p.name}`")
    rows = ["| file | for | source | licence | size | sha256 |", 6 * "|---" + "|"]
    for file in sorted(users, key=lambda file: (file.folder.lower(), file.name)):
        licence = f"{file.licence} (*to be placed by you*)" if file.placed_by_user else file.licence
        size = f"{file.size / 1e6:,.1f} MB" if file.size else "as the hub states"
        sha256 = f"`{file.sha256[:12]}…`" if file.sha256 else "as the hub states"
        source = f"[{file.repository}]({file.source})"
        cells = (f"`{file.folder}/{file.name}`", ", ".join(users[file]), source, licence, size, sha256)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    (HERE / "preprocessors.md").write_text(page(), encoding="utf-8")
