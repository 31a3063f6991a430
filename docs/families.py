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

ON_TWO = {"embedded": "over HTTP, in both passes", "A1111": "over HTTP (`test_a1111_families.py`)"}
IN_JOBS = {"embedded": "over HTTP"}
READY = dict.fromkeys(("embedded", "A1111"), "over HTTP, with ready embeddings")
SEEN: Mapping[str, Mapping[str, str]] = {
    "ControlNet": {
        "embedded": "diffusers' pipelines, ≤ 1e-5",
        "A1111": "the incumbent, ≤ 1/255; Forge, 0.006 %",
        "Forge": "its built-in, ≤ 1/255",
        "reForge": "its built-in, ≤ 1/255; Forge, 0.005 %",
    },
    "ControlNet-Union": ON_TWO,
    "Control-LoRA": ON_TWO,
    "T2I-Adapter": ON_TWO,
    "ControlNet-LLLite": ON_TWO,
    "SparseCtrl": ON_TWO,
    "CtrLoRA": ON_TWO,
    "ControlNet-XS": ON_TWO,
    "IP-Adapter": READY,
    "PuLID": READY,
    "reference by attention": {**IN_JOBS, "A1111": "acts, repeats", "Forge": "acts, repeats"},
    "reference by statistics": {**IN_JOBS, "A1111": "acts"},
    "reference by both": {**IN_JOBS, "Forge": "acts, repeats"},
    "colour fix": IN_JOBS,
    "keep unmasked": IN_JOBS,
    "recolour by lightness": IN_JOBS,
    "recolour by intensity": IN_JOBS,
    "inpaint checkpoint": {"A1111": "the incumbent, within 4.3 levels where it changes 13"},
}
"""What was seen, by family and host; the rest is unverified."""


def table() -> str:
    """One row for each family of the registry. Raises KeyError for evidence of a family that is not there."""
    names = sorted({kind.name for kind in family.everything()} - NOTHING_TO_RUN, key=str.casefold)
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
