from __future__ import annotations

import base64
import os
import pickle
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch

from controlstack import embeddings
from controlstack.embeddings import FACE, PATCHES, POOLED, RAW_FACE
from controlstack.errors import ControlError


def saved(value: object) -> str:
    held = BytesIO()
    torch.save(value, held)
    return base64.b64encode(held.getvalue()).decode()


def test_what_is_written_is_read() -> None:
    given = {POOLED: torch.randn(1, 40), PATCHES: torch.randn(1, 9, 40).half()}
    (back,) = embeddings.read([embeddings.write(given)])
    assert back.keys() == given.keys()
    assert all(torch.equal(back[name], given[name]) for name in given)


def test_the_incumbents_answers_are_read() -> None:
    """peer, clipvision: a dict of CLIP's results with all layers in a list; of a face a tensor alone."""
    layers = [torch.randn(1, 9, 40) for _ in range(4)]
    faces = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    clip = {"last_hidden_state": layers[-1], POOLED: torch.ones(1, 8), PATCHES: layers}
    seen, *found = embeddings.read([saved(clip), saved(faces)])
    assert torch.equal(seen[PATCHES], layers[-2])
    assert torch.equal(torch.cat([one[RAW_FACE] for one in found]), faces)
    torch.testing.assert_close(torch.cat([one[FACE] for one in found]), torch.tensor([[0.6, 0.8], [0, 1]]))


class Harmful:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("protocol", ["zip", "pickle"])
def test_programs_are_not_run(tmp_path: Path, protocol: str) -> None:
    made = Harmful(tmp_path / "made")
    text = saved(made) if protocol == "zip" else base64.b64encode(pickle.dumps(made)).decode()
    with pytest.raises(ControlError, match=r"ipadapter_input\[0\] cannot be used"):
        embeddings.read([text])
    assert not (tmp_path / "made").exists()


def packed_zeros() -> str:
    held = BytesIO()
    with ZipFile(held, "w", ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(embeddings.MAX_BYTES + 1))
    return base64.b64encode(held.getvalue()).decode()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("not base64!", "no base64 of a tensor file"),
        ("", "no base64 of a tensor file"),
        (saved({}), "no numbers"),
        (saved({POOLED: torch.tensor([float("nan")])}), "no numbers"),
        (saved({POOLED: torch.tensor([1])}), "no numbers"),
        (saved(torch.tensor(1.0)), "no tensors"),
        (saved([1]), "no tensors"),
        (5, "no tensors"),
        (packed_zeros(), "too large"),
    ],
)
def test_all_else_is_refused_in_a_sentence(given: object, said: str) -> None:
    with pytest.raises(ControlError, match=said):
        embeddings.read([given])


def test_there_is_an_end_to_how_many() -> None:
    with pytest.raises(ControlError, match="65"):
        embeddings.read([torch.ones(1, 2)] * 65)
