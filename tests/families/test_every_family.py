"""What every family keeps, at one step of tiny UNets. A family joins with a file in `tiny/` and one or more
in `headers/`; `stage.py` runs it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from stage import KINDS, SIZE, STILL, TINY, Stage

from controlstack import family
from controlstack.errors import ControlError
from controlstack.weights import Header

HEADERS = {
    file.name.removesuffix(".json.gz"): file for file in sorted((Path(__file__).parent / "headers").iterdir())
}
HALF = np.zeros((SIZE, SIZE), np.uint8)
HALF[:, : SIZE // 2] = 255

REFUSED = {"not_here"}
"""The room of kinds that have nothing to run."""
FAMILIES = family.everything()


@pytest.fixture(scope="module", params=KINDS, ids=" ".join)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    kind, layout = request.param
    return Stage(tmp_path_factory.mktemp("models"), layout, kind)


def visible(change: torch.Tensor, plain: torch.Tensor) -> bool:
    return bool(change.abs().mean() > 0.02 * plain.abs().mean())


def shapes(fixture: str) -> dict[str, tuple[int, ...]]:
    held = json.loads(gzip.decompress(HEADERS[fixture].read_bytes()))
    assert held["source"].count(" ") > 2, "which class of which repository at which revision"
    return {name: tuple(shape) for name, shape in held["shapes"].items()}


@pytest.mark.parametrize("fixture", HEADERS)
def test_a_published_header_is_of_exactly_one_family(fixture: str) -> None:
    """The file's name begins with the room's."""
    header = Header(Path("model.safetensors"), shapes(fixture))
    claimed = []
    for kind in FAMILIES:
        try:
            claimed += [kind.name] if kind.match(header) else []
        except ControlError:
            claimed.append(kind.name)
    assert len(claimed) == 1, claimed
    room = type(family.called(claimed[0])).__module__.rpartition(".")[2]
    assert fixture.partition("-")[0] == room


def test_every_family_with_files_has_tiny_nets_and_headers() -> None:
    rooms = {type(kind).__module__.rpartition(".")[2]: kind.name for kind in FAMILIES if has_files(kind)}
    assert {fixture.partition("-")[0] for fixture in HEADERS} >= set(rooms)
    assert TINY.keys() >= {name for room, name in rooms.items() if room not in REFUSED}


def has_files(kind: family.Family) -> bool:
    return type(kind).match is not family.Family.match


def test_what_must_not_act_changes_no_bit_and_calls_no_network(stage: Stage) -> None:
    plain, acting = stage.output(), stage.output(stage.unit())
    assert visible(acting - plain, plain)
    for name, fields in STILL.items():
        assert torch.equal(stage.output(stage.unit(**fields)), plain), name
        assert stage.calls == 0, name


def test_the_unet_is_left_as_it_was(stage: Stage) -> None:
    before = {name: tensor.clone() for name, tensor in stage.unet.state_dict().items()}
    plain = stage.output()
    stage.output(stage.unit(), stage.unit(1, model="net1"))
    assert all(torch.equal(before[name], tensor) for name, tensor in stage.unet.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in stage.unet.modules())
    assert not any("forward" in vars(m) for m in stage.unet.modules())
    assert torch.equal(stage.output(), plain)


def test_rows_together_split_and_reordered_give_the_same(stage: Stage) -> None:
    units = (stage.unit(), stage.unit(1, control_mode="ControlNet is more important", weight=0.7))
    together, plain = stage.output(*units), stage.output()
    split = torch.cat([stage.output(*units, rows=[i]) for i in range(4)])
    swapped = stage.output(*units, rows=[2, 0, 3, 1])[[1, 3, 0, 2]]
    assert visible(together - plain, plain)
    torch.testing.assert_close(split, together, atol=1e-5, rtol=0)
    torch.testing.assert_close(swapped, together, atol=1e-5, rtol=0)


def test_two_units_of_one_file_share_it_and_see_their_own_pictures(stage: Stage) -> None:
    session = stage.begin(stage.unit(0), stage.unit(1))
    assert len({id(network) for network in session._networks}) == stage.files + len(stage.fellows)
    one, other = stage.output(stage.unit(0)), stage.output(stage.unit(1))
    assert visible(one - other, other)
    assert visible(stage.evaluate(session) - one, one)


def test_the_order_of_units_does_not_matter(stage: Stage) -> None:
    units = [stage.unit(), stage.unit(1, weight=0.6), stage.unit(2, model="net1", effective_region_mask=HALF)]
    torch.testing.assert_close(stage.output(*units), stage.output(*reversed(units)), atol=1e-5, rtol=0)


def test_an_evaluation_leaves_nothing_behind(stage: Stage) -> None:
    session = stage.begin(stage.unit())
    first, calls = stage.evaluate(session), stage.calls
    assert torch.equal(stage.evaluate(session), first)
    assert stage.calls == calls


def test_a_region_mask_that_covers_everything_changes_nothing(stage: Stage) -> None:
    whole = stage.unit(effective_region_mask=np.full((SIZE, SIZE), 255, np.uint8))
    half = stage.output(stage.unit(effective_region_mask=HALF))
    assert torch.equal(stage.output(whole), stage.output(stage.unit()))
    assert visible(half - stage.output(), half)
    assert visible(half - stage.output(whole), half)


def test_weight_and_layers_say_the_same(stage: Stage) -> None:
    """advanced_weighting replaces the weight: the same number for every layer is that weight."""
    layers = stage.begin(stage.unit()).plans[0].matches[0].layers
    weighed = stage.output(stage.unit(weight=0.4))
    assert visible(weighed - stage.output(stage.unit()), weighed)
    if layers:
        listed = stage.output(stage.unit(advanced_weighting=[0.4] * layers))
        torch.testing.assert_close(listed, weighed, atol=1e-6, rtol=0)
