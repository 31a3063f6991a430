"""Control-LoRA files against their formula in diffusers' `ControlNetModel`, and against what diffusers makes
of such files."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from nets import Host
from stage import Stage
from tiny.control_lora import tensors
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from controlstack import family
from controlstack.errors import ControlError
from controlstack.family import Match, Start
from controlstack.joints import Call, Row
from controlstack.unit import ControlNetUnit
from controlstack.weights import read_header

ROWS, SIDES = 3, (8, 12)


class Problem:
    """A file, the UNet that it is for, and one evaluation."""

    def __init__(self, folder: Path, layout: str) -> None:
        self.config = nets.LAYOUTS[layout]
        self.unet = nets.unet(self.config, seed=7)
        self.stored = tensors(layout, seed=0)
        self.path = nets.save(folder / "net.safetensors", self.stored)
        torch.manual_seed(3)
        self.added, y = None, None
        if layout == "sdxl":
            self.added = {
                "text_embeds": torch.randn(ROWS, 24),
                "time_ids": torch.tensor([[64.0, 96, 0, 8, 64, 96]] * ROWS),
            }
            sizes = self.unet.add_time_proj(self.added["time_ids"].flatten()).reshape(ROWS, -1)
            y = torch.cat([self.added["text_embeds"], sizes], dim=1)
        context = torch.randn(ROWS, 7, self.config["cross_attention_dim"])
        x, t = torch.randn(ROWS, 4, *SIDES), torch.tensor([3.0, 500.25, 998.5])
        self.call = Call(x, t, context, y, tuple(map(Row, range(ROWS))))
        self.hint = torch.rand(1, 3, *(8 * side for side in SIDES))

    def answer(self, net: Any) -> list[Tensor]:
        call = self.call
        skips, middle = net(
            call.x, call.t, call.context, self.hint, added_cond_kwargs=self.added, return_dict=False
        )
        return [*skips, middle]

    def formula(self) -> ControlNetModel:
        """W = W of the UNet + up · down; what is stored whole is itself."""
        net = nets.controlnet(self.config)
        live, named = self.unet.state_dict(), nets.in_ldm({name: name for name in net.state_dict()})
        state = {}
        for ldm, name in named.items():
            layer = ldm.removesuffix("weight")
            if ldm in self.stored:
                state[name] = self.stored[ldm]
            elif f"{layer}up" in self.stored:
                up, down = self.stored[f"{layer}up"], self.stored[f"{layer}down"]
                state[name] = live[name] + torch.einsum("or,ri...->oi...", up.reshape(len(up), -1), down)
            else:
                state[name] = live[name]
        net.load_state_dict(state)
        return net

    def match(self) -> Match:
        match = family.recognise(read_header(self.path))
        assert match.family.name == "Control-LoRA"
        assert match.of_checkpoint
        return match

    def ours(self, host: Host | None = None) -> list[Tensor]:
        match = self.match()
        network = match.family.load(match, host or self.host())
        nothing = np.zeros((*self.hint.shape[2:], 3), np.uint8)
        control = match.family.begin(Start(network, match, self.hint, nothing, ControlNetUnit(), Host()))
        given = control.residuals(self.call)
        assert given is not None
        assert given.middle is not None
        return [*given.skips, given.middle]

    def host(self, dtype: torch.dtype = torch.float32) -> Host:
        return Host(dtype=dtype, weights=dict(self.unet.named_parameters()))


def largest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
def test_residuals_equal_the_formula(tmp_path: Path, layout: str) -> None:
    problem = Problem(tmp_path, layout)
    theirs = problem.answer(problem.formula())
    assert largest(problem.ours(), theirs) <= 1e-5
    without = problem.formula()
    live = problem.unet.state_dict()
    without.load_state_dict({name: live[name] for name in without.state_dict() if name in live}, strict=False)
    assert largest(problem.answer(without), theirs) > 1e-2, "the low ranks must be felt"


@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
def test_residuals_equal_diffusers_own_reading(tmp_path: Path, layout: str) -> None:
    """But for biases beside low ranks, which ComfyUI reads and diffusers does not: it gets them before."""
    pytest.importorskip("peft", reason="diffusers reads these files with peft")
    if not hasattr(ControlNetModel, "load_lora_adapter"):
        pytest.skip("this diffusers does not read these files")
    problem = Problem(tmp_path, layout)
    net, ours = nets.controlnet(problem.config, seed=9), problem.ours()
    live = problem.unet.state_dict()
    net.load_state_dict({name: live[name] for name in net.state_dict() if name in live}, strict=False)
    biases = {name: t for name, t in problem.formula().state_dict().items() if name.endswith(".bias")}
    net.load_state_dict(biases, strict=False)
    assert largest(ours, problem.answer(net)) > 1e-2
    net.load_lora_adapter(dict(problem.stored), prefix=None)
    with torch.no_grad():
        assert largest(ours, problem.answer(net.eval())) <= 1e-5


def test_what_the_file_leaves_out_is_the_unets_own(tmp_path: Path) -> None:
    problem = Problem(tmp_path, "sd1")
    for part in ("in_layers.0.weight", "out_layers.3.up", "out_layers.3.down", "out_layers.3.bias"):
        del problem.stored[f"input_blocks.2.0.{part}"]
    problem.path = nets.save(tmp_path / "less.safetensors", problem.stored)
    assert largest(problem.ours(), problem.answer(problem.formula())) <= 1e-5


def test_the_sums_are_made_once_and_the_unets_weights_stay(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "sd1", "Control-LoRA")
    before = {name: tensor.clone() for name, tensor in stage.unet.state_dict().items()}
    session = stage.begin(stage.unit(0), stage.unit(1))
    (network,) = {id(network): network for network in session._networks}.values()
    assert (
        sum(1 for _ in network.net.modules())
        == sum(1 for _ in nets.controlnet(nets.SD1).modules())
        - sum(1 for _ in network.hint_encoder.modules())
        + 1
    ), "a plain ControlNet: nothing beside its own modules is computed at a step"
    shared = {tensor.data_ptr() for tensor in stage.unet.parameters()}
    assert not shared & {tensor.data_ptr() for tensor in network.parameters()}
    assert all(parameter.requires_grad is False for parameter in network.parameters())
    stage.evaluate(session)
    assert all(torch.equal(before[name], tensor) for name, tensor in stage.unet.state_dict().items())


def test_a_step_has_the_matrix_products_of_a_controlnet(tmp_path: Path) -> None:
    """Every product with its shapes, counted where torch dispatches it; a LoRA that is applied at a step has
    two more for each layer. The first evaluation loads nothing either: the pass has begun."""
    products = {}
    for kind in ("ControlNet", "Control-LoRA"):
        folder = tmp_path / kind
        folder.mkdir()
        stage = Stage(folder, "sd1", kind)
        session = stage.begin(stage.unit())
        with Products() as counted:
            stage.evaluate(session)
        products[kind] = counted.seen
    with Products() as bare:
        stage.output()
    assert products["Control-LoRA"] == products["ControlNet"]
    assert sum(products["ControlNet"].values()) > sum(bare.seen.values()) > 50


class Products(TorchDispatchMode):
    """Counts matrix products and convolutions by name and shapes."""

    NAMES = ("mm", "addmm", "bmm", "baddbmm", "convolution", "scaled_dot_product")

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[object, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.strip("_")
        if name.startswith(self.NAMES):
            self.seen[(name, *(tuple(arg.shape) for arg in args if isinstance(arg, Tensor)))] += 1
        return func(*args, **(kwargs or {}))


def test_another_checkpoint_gets_sums_of_its_own(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "sd1", "Control-LoRA")
    first = stage.begin(stage.unit())._networks[0]
    assert stage.begin(stage.unit())._networks[0] is first
    stage.unet = nets.unet(nets.SD1, seed=5)
    second = stage.begin(stage.unit())._networks[0]
    assert second is not first
    assert not torch.equal(second.net.conv_in.weight, first.net.conv_in.weight)


def test_it_computes_in_the_hosts_dtype(tmp_path: Path) -> None:
    """The sums are made in fp32 and rounded once."""
    problem = Problem(tmp_path, "sdxl")
    ours, theirs = problem.ours(problem.host(torch.bfloat16)), problem.answer(problem.formula())
    for a, b in zip(ours, theirs, strict=True):
        assert 1e-4 < float((a - b).norm() / b.norm()) < 4e-2  # bfloat16 keeps 8 bits


def test_many_units_hold_one_copy(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "sdxl", "Control-LoRA")
    one = stage.begin(stage.unit())
    size = sum(tensor.nbytes for tensor in one._networks[0].parameters())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many = stage.begin(*(stage.unit(seed) for seed in range(5)))
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert len({id(network) for network in many._networks}) == 1
    assert grown < size, f"{grown} bytes more for four units of {size}"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.pop("zero_convs.3.0.bias"), "lacks controlnet_down_blocks.3.bias"),
        (lambda t: t.update({"other.weight": torch.zeros(1)}), "unknown other.weight"),
        (lambda t: t.pop("input_hint_block.0.weight"), "no hint encoder"),
        (
            lambda t: t.update({"time_embed.0.up": torch.zeros(9, 4)}),
            "wrong size are time_embedding.linear_1",
        ),
    ],
)
def test_a_broken_file_says_what_is_wrong(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    problem = Problem(tmp_path, "sd1")
    spoil(problem.stored)
    problem.path = nets.save(tmp_path / "broken.safetensors", problem.stored)
    with pytest.raises(ControlError, match=said):
        problem.ours()


def test_without_the_unets_weights_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="cannot be read here"):
        Problem(tmp_path, "sd1").ours(Host())
