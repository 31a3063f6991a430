"""ControlNet-Union and ProMax, against diffusers' own `ControlNetUnionModel`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import nets
import numpy as np
import pytest
import torch
from nets import Host
from stage import Stage
from torch import Tensor, nn

# The family needs no such class, but this does; before 0.33 it weighs no hint apart from another.
if "from_multi" not in signature(getattr(diffusers, "ControlNetUnionModel", nn.Module).forward).parameters:
    pytest.skip("this diffusers has no ControlNetUnionModel to compare with", allow_module_level=True)

from tiny.union import union

from controlstack import family
from controlstack.errors import ControlError
from controlstack.family import Start
from controlstack.joints import Call, Control, Row
from controlstack.unit import ControlNetUnionControlType, parse
from controlstack.weights import read_header

ROWS, SIDES = 3, (8, 12)
TYPES = list(ControlNetUnionControlType)[:-1]


class Problem:
    """A net, one evaluation, and diffusers' answer."""

    def __init__(self, folder: Path, layout: str, types: int = 8) -> None:
        self.net, self.types = union(layout, types=types), types
        self.path = nets.save(folder / "net.safetensors", self.net.state_dict())
        torch.manual_seed(3)
        config = nets.LAYOUTS[layout]
        self.added, y = None, None
        if layout == "sdxl":
            self.added = {
                "text_embeds": torch.randn(ROWS, 24),
                "time_ids": torch.tensor([[64.0, 96, 0, 8, 64, 96]] * ROWS),
            }
            sizes = self.net.add_time_proj(self.added["time_ids"].flatten()).reshape(ROWS, -1)
            y = torch.cat([self.added["text_embeds"], sizes], dim=1)
        context = torch.randn(ROWS, 7, config["cross_attention_dim"])
        x, t = torch.randn(ROWS, 4, *SIDES), torch.tensor([3.0, 500.25, 998.5])
        self.call = Call(x, t, context, y, tuple(map(Row, range(ROWS))))

    def hint(self, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(1, 3, *(8 * side for side in SIDES), generator=generator)

    def theirs(self, hints: Sequence[Tensor], types: Sequence[int], weights: Sequence[float]) -> list[Tensor]:
        told = torch.zeros(ROWS, self.types)
        told[:, list(types)] = 1
        skips, middle = self.net(
            self.call.x,
            self.call.t,
            self.call.context,
            [hint.expand(ROWS, -1, -1, -1) for hint in hints],
            told,
            list(types),
            conditioning_scale=list(weights),
            added_cond_kwargs=self.added,
            return_dict=False,
        )
        return [*skips, middle]

    def begin(self, hint: Tensor, **fields: Any) -> Control:
        match = family.recognise(read_header(self.path))
        network = match.family.load(match, Host())
        nothing = np.zeros((*hint.shape[2:], 3), np.uint8)
        return match.family.begin(
            Start(network, match, hint, nothing, parse({"model": "net", **fields}), Host())
        )

    def ours(self, hint: Tensor, **fields: Any) -> list[Tensor]:
        return listed(self.begin(hint, **fields), self.call)


def listed(control: Control, call: Call) -> list[Tensor]:
    given = control.residuals(call)
    assert given is not None
    assert given.middle is not None
    return [*given.skips, given.middle]


def largest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
def test_every_type_equals_diffusers(tmp_path: Path, layout: str) -> None:
    problem = Problem(tmp_path, layout)
    seen = []
    for number, kind in enumerate(TYPES):
        theirs = problem.theirs([problem.hint()], [number], [1.0])
        assert largest(problem.ours(problem.hint(), union_control_type=str(kind)), theirs) <= 1e-5
        assert largest(theirs, problem.theirs([problem.hint(1)], [number], [1.0])) > 1e-2
        seen.append(theirs)
    assert all(largest(a, b) > 1e-3 for a, b in itertools.pairwise(seen)), "types must be felt"


@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
def test_units_of_one_file_act_in_one_call_as_in_diffusers(tmp_path: Path, layout: str) -> None:
    """Weights act inside: on the hints, on what the transformer sees and on the shifts."""
    problem = Problem(tmp_path, layout)
    match = family.recognise(read_header(problem.path))
    network = match.family.load(match, Host())

    def begin(hint: Tensor, kind: str) -> Control:
        nothing, unit = (
            np.zeros((*hint.shape[2:], 3), np.uint8),
            parse({"union_control_type": kind, "model": "net"}),
        )
        return match.family.begin(Start(network, match, hint, nothing, unit, Host()))

    depth, lines = begin(problem.hint(0), "depth"), begin(problem.hint(1), "canny")
    assert depth.fuses(lines)
    both = depth.together([(depth, 0.7), (lines, 0.4)])
    theirs = problem.theirs([problem.hint(0), problem.hint(1)], [1, 3], [0.7, 0.4])
    assert largest(listed(both, problem.call), theirs) <= 1e-5
    assert largest(listed(depth, problem.call), theirs) > 1e-2
    assert not depth.fuses(begin(problem.hint(1), "unknown"))


def test_units_fuse_only_where_their_strengths_allow_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "sdxl", "ControlNet-Union")
    depth, lines = stage.unit(), stage.unit(1, union_control_type="Canny")

    def networks(*units: dict[str, Any]) -> int:
        """How often networks are called at one step."""
        session, calls = stage.begin(*units), []
        hooks = [
            network.net.register_forward_pre_hook(lambda *_: calls.append(1))
            for network in {id(network): network for network in session._networks}.values()
        ]
        stage.evaluate(session)
        for hook in hooks:
            hook.remove()
        return len(calls)

    half = np.zeros((8, 8), np.uint8)
    half[:4] = 255
    assert networks(depth) == 1
    assert networks(depth, lines) == 1
    other = stage.unit(2, union_control_type="Normal Map", model="net1")
    assert networks(depth, {**lines, "weight": 0.3}, other) == 2
    assert networks(depth, {**lines, "effective_region_mask": half}) == 2


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (dict(union_control_type="HARD_EDGE"), 3),
        (dict(union_control_type=3), 3),
        (dict(union_control_type="canny"), 3),
        (dict(module="canny"), 3),
        (dict(module="canny", union_control_type="Depth"), 1),
        (dict(module="tile_resample"), 6),
        (dict(module="inpaint_only"), 7),
        (dict(module="scribble_xdog"), 2),
    ],
)
def test_the_type_is_the_units_or_its_preprocessors(
    tmp_path: Path, fields: dict[str, object], kind: int
) -> None:
    problem = Problem(tmp_path, "sd1")
    theirs = problem.theirs([problem.hint()], [kind], [1.0])
    assert largest(problem.ours(problem.hint(), **fields), theirs) <= 1e-5


def test_without_any_type_the_hint_is_read_as_a_controlnets(tmp_path: Path) -> None:
    """As the incumbent does: no type is told, and the hint is not shifted."""
    problem = Problem(tmp_path, "sd1")
    ours = problem.ours(problem.hint())
    net = problem.net
    embedded = net.controlnet_cond_embedding(problem.hint())
    assert largest(ours, problem.ours(problem.hint(1))) > 1e-2
    net.spatial_ch_projs.weight.zero_()
    net.spatial_ch_projs.bias.zero_()
    net.task_embedding.zero_()
    assert embedded.std() > 0.01
    told = torch.zeros(ROWS, 8)
    skips, middle = net(
        problem.call.x,
        problem.call.t,
        problem.call.context,
        [problem.hint().expand(ROWS, -1, -1, -1)],
        told,
        [0],
        return_dict=False,
    )
    assert largest(ours, [*skips, middle]) <= 1e-5


def test_a_type_that_the_file_lacks_is_refused_in_words(tmp_path: Path) -> None:
    problem = Problem(tmp_path, "sdxl", types=6)
    assert (
        largest(problem.ours(problem.hint(), module="canny"), problem.theirs([problem.hint()], [3], [1.0]))
        <= 1e-5
    )
    with pytest.raises(ControlError, match="does not know hints of type Tile") as error:
        problem.begin(problem.hint(), module="tile_resample")
    assert "OpenPose, Depth, Soft Edge, Hard Edge, Normal Map, Segmentation" in str(error.value)


def test_files_with_ldms_names_are_read(tmp_path: Path) -> None:
    problem = Problem(tmp_path, "sdxl")
    state = problem.net.state_dict()
    own = ("task_embedding", "control_add_embedding.", "spatial_ch_projs.", "transformer_layes.")
    renamed = nets.in_ldm(
        {name: t for name, t in state.items() if not name.startswith(own)}, "control_model."
    )
    renamed |= {f"control_model.{name}": t for name, t in state.items() if name.startswith(own)}
    problem.path = nets.save(tmp_path / "ldm.safetensors", renamed)
    theirs = problem.theirs([problem.hint()], [1], [1.0])
    assert largest(problem.ours(problem.hint(), union_control_type="depth"), theirs) <= 1e-5


def test_a_broken_file_says_what_is_wrong(tmp_path: Path) -> None:
    problem = Problem(tmp_path, "sd1")
    state = problem.net.state_dict()
    del state["transformer_layes.0.mlp.c_fc.bias"]
    problem.path = nets.save(tmp_path / "broken.safetensors", state)
    with pytest.raises(ControlError, match=r"lacks transformer_layes\.0\.mlp\.c_fc\.bias"):
        problem.begin(problem.hint())
