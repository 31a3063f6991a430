from __future__ import annotations

from controlstack.hosts.ledger import of_chunks
from controlstack.joints import Row, RowKind

UNCOND = RowKind.UNCOND


def test_forges_chunks_are_rows_of_all_pictures() -> None:
    """What its calls were seen to be: two pictures; no guidance; "a AND b", whose last prompt comes first."""
    assert of_chunks([1, 0], 4) == (Row(0, UNCOND), Row(1, UNCOND), Row(0), Row(1))
    assert of_chunks([0], 2) == (Row(0), Row(1))
    assert of_chunks([1, 0, 0], 3) == (Row(0, UNCOND), Row(0, prompt=1), Row(0, prompt=0))
