"""Writes the table of hosts in `families.md` from the registry of families: python docs/families.py

That a host serves the joints is shown by `tests/hosts/test_joints.py`. This table says which family was
seen at work there, and what its pictures were compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from controlstack import family

PAGE = Path(__file__).parent / "families.md"
BEGIN, END = "<!-- hosts: written by families.py -->\n", "<!-- /hosts -->"
HOSTS = ("embedded", "A1111", "Forge", "reForge")
UNVERIFIED = "unverified"
NOTHING_TO_RUN = {"kinds that cannot be used here"}

AT_WORK = dict.fromkeys(HOSTS, "over HTTP")
IN_BOTH_PASSES = AT_WORK | {"embedded": "over HTTP, in both passes"}
READY = dict.fromkeys(HOSTS, "over HTTP, with ready embeddings")
LOOKS = READY | dict.fromkeys(HOSTS[1:], "over HTTP, with ready embeddings and by its CLIP")
OF_ANOTHER_ROOM = ("IP-Adapter FaceID", "InstantID")
"""Rows of the first table that have no family of their own."""


SEEN: Mapping[str, Mapping[str, str]] = {
    "ControlNet": {
        "embedded": "diffusers' pipelines, ≤ 1e-5",
        "A1111": "the incumbent, ≤ 1/255; Forge, 0.006 %",
        "Forge": "its built-in, ≤ 1/255",
        "reForge": "its built-in, ≤ 1/255; Forge, 0.005 %",
    },
    "ControlNet-Union": IN_BOTH_PASSES,
    "Control-LoRA": IN_BOTH_PASSES,
    "T2I-Adapter": IN_BOTH_PASSES,
    "ControlNet-LLLite": IN_BOTH_PASSES,
    "SparseCtrl": IN_BOTH_PASSES,
    "CtrLoRA": IN_BOTH_PASSES,
    "ControlNet-XS": IN_BOTH_PASSES,
    "IP-Adapter": LOOKS,
    "IP-Adapter FaceID": READY,
    "InstantID": READY | {"embedded": "one step of its UNet: the published pipeline, ≤ 1e-5"},
    "PuLID": READY,
    "T2I style adapter": LOOKS,
    "revision": AT_WORK,
    "revision without the prompt": AT_WORK,
    "reference by attention": AT_WORK,
    "reference by statistics": AT_WORK,
    "reference by both": AT_WORK,
    "style align": AT_WORK,
    "colour fix": AT_WORK,
    "keep unmasked": AT_WORK,
    "start from the picture": AT_WORK,
    "recolour by lightness": AT_WORK,
    "recolour by intensity": AT_WORK,
    "inpaint checkpoint": AT_WORK | {"A1111": "the incumbent, within 4.3 levels where it changes 13"},
}
"""What was seen, by family and host; the rest is unverified."""


def table() -> str:
    """One row for each family of the registry. Raises KeyError for evidence of a family that is not there."""
    rooms = {kind.name for kind in family.everything()} - NOTHING_TO_RUN
    names = sorted(rooms | {*OF_ANOTHER_ROOM}, key=str.casefold)
    if unknown := SEEN.keys() - set(names):
        raise KeyError(f"no such families: {', '.join(sorted(unknown))}")
    rows = [f"| family | {' | '.join(HOSTS)} |", "|---" * (1 + len(HOSTS)) + "|"]
    for name in names:
        cells = (SEEN.get(name, {}).get(host, UNVERIFIED) for host in HOSTS)
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def page(text: str) -> str:
    """The page with the table of today."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
