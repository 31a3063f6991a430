"""T2I-Adapters of every kind, against diffusers' own `T2IAdapter` and its pipelines."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nets
import numpy as np
import pytest
import test_against_diffusers as pipelines
import torch
from diffusers import MultiAdapter, StableDiffusionAdapterPipeline, StableDiffusionXLAdapterPipeline
from nets import Host
from stage import Stage
from test_against_diffusers import World, hint, unit
from tiny.t2i_adapter import adapter
from torch import Tensor, nn

from controlstack import family
from controlstack.errors import ControlError
from controlstack.families.t2i_adapter import Network
from controlstack.family import Start
from controlstack.joints import Call, Control, Residuals, Row
from controlstack.unit import ControlNetUnit
from controlstack.weights import read_header

KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "full": ("sd1", {}),
    "sketch": ("sd1", dict(in_channels=1)),
    "light": ("sd1", dict(adapter_type="light_adapter", channels=[32, 64, 128], num_res_blocks=4)),
    "xl": ("sdxl", {}),
    "xl sketch": ("sdxl", dict(in_channels=1, num_res_blocks=3)),
}


def original(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of TencentARC/T2I-Adapter's `Adapter`, `Adapter_XL` and `Adapter_light`."""
    bare = {name.removeprefix("adapter."): tensor for name, tensor in tensors.items()}
    if "conv_in.weight" not in bare:
        return {name.replace(".resnets.", ".body."): tensor for name, tensor in bare.items()}
    resnets = (
        max(int(match[1]) for match in (re.search(r"resnets\.(\d+)", name) for name in bare) if match) + 1
    )

    def flat(match: re.Match[str]) -> str:
        return f"body.{int(match[1]) * resnets + int(match[2] or 0)}."

    return {re.sub(r"^body\.(\d+)\.(?:resnets\.(\d+)\.)?", flat, name): t for name, t in bare.items()}


FORMS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "diffusers": dict,
    "original": original,
    "original behind adapter.": lambda t: {f"adapter.{name}": held for name, held in original(t).items()},
}


def begin(path: Path, hint: Tensor) -> Control:
    match = family.recognise(read_header(path))
    assert match.family.name == "T2I-Adapter"
    network = match.family.load(match, Host())
    nothing = np.zeros((*hint.shape[2:], 3), np.uint8)
    return match.family.begin(Start(network, match, hint, nothing, ControlNetUnit(), Host()))


def call(height: int, width: int, rows: int = 3) -> Call:
    x = torch.zeros(rows, 4, height // 8, width // 8)
    return Call(x, torch.zeros(rows), torch.zeros(rows, 7, 8), None, tuple(map(Row, range(rows))))


def residuals(control: Control, height: int, width: int) -> Residuals:
    given = control.residuals(call(height, width))
    assert given is not None
    assert given.encoder is not None
    assert not given.skips
    return given


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_features_equal_those_of_diffusers_in_all_rows(tmp_path: Path, kind: str, form: str) -> None:
    layout, config = KINDS[kind]
    net = adapter(layout, **config)
    picture = torch.rand(1, 3, 64, 96)
    path = nets.save(tmp_path / "net.safetensors", FORMS[form](net.state_dict()))
    ours = residuals(begin(path, picture), 64, 96)
    assert ours.encoder is not None
    theirs = net(picture[:, : config.get("in_channels", 3)])
    # diffusers' UNet adds them at the end of each level with attention, and at that of the last one (SD1);
    # SDXL's first level has none: there behind the downsampler, and the fourth to the middle block.
    places = (2, 5, 8, 11) if layout == "sd1" else (3, 5, 8)
    assert tuple(sorted(ours.encoder)) == places
    given = [ours.encoder[place] for place in places] + ([] if ours.middle is None else [ours.middle])
    for one, other in zip(given, theirs, strict=True):
        assert other.std() > 0.1
        assert one.shape == (3, *other.shape[1:])
        assert (one - other).abs().max() <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(72, 136), (88, 40), (64, 200)])
def test_odd_sizes_give_features_of_the_unets_sizes(
    tmp_path: Path, kind: str, height: int, width: int
) -> None:
    """The UNet halves rounding up: 72x136 px are 9x17, 5x9, 3x5 and 2x3 cells."""
    layout, config = KINDS[kind]
    path = nets.save(tmp_path / "net.safetensors", adapter(layout, **config).state_dict())
    ours = residuals(begin(path, torch.rand(1, 3, height, width)), height, width)
    for place, feature in (ours.encoder or {}).items():
        level = {2: 0, 3: 1, 5: 1, 8: 2, 11: 3}[place]
        assert feature.shape[-2:] == (-(-height // (8 << level)), -(-width // (8 << level)))


def test_the_options_of_the_original_code(tmp_path: Path) -> None:
    """TencentARC's `Adapter(ksize=3, sk=False, use_conv=True)`, written down as its formula."""
    torch.manual_seed(0)
    widths = (32, 64, 128, 128)
    tensors = {"conv_in": nn.Conv2d(192, 32, 3, padding=1)}
    for i, width in enumerate(widths):
        below = widths[max(i - 1, 0)]
        if i:
            tensors[f"body.{i}.down_opt.op"] = nn.Conv2d(below, below, 3, stride=2, padding=1)
        tensors[f"body.{i}.in_conv"] = nn.Conv2d(below, width, 3, padding=1)
        for part in ("block1", "block2", "skep"):
            tensors[f"body.{i}.{part}"] = nn.Conv2d(width, width, 3, padding=1)
    state = {f"{name}.{kind}": t for name, conv in tensors.items() for kind, t in conv.state_dict().items()}
    picture = torch.rand(1, 3, 64, 64)
    ours = residuals(begin(nets.save(tmp_path / "net.safetensors", state), picture), 64, 64)
    h = tensors["conv_in"](nn.functional.pixel_unshuffle(picture, 8))
    for i, place in enumerate((2, 5, 8, 11)):
        if i:
            h = tensors[f"body.{i}.down_opt.op"](h)
        h = tensors[f"body.{i}.in_conv"](h)
        h = tensors[f"body.{i}.block2"](tensors[f"body.{i}.block1"](h).relu()) + tensors[f"body.{i}.skep"](h)
        assert (ours.encoder or {})[place][0].sub(h[0]).abs().max() <= 1e-5


class Adapted(World):
    """With two adapters on disk."""

    def __init__(self, folder: Path, layout: str) -> None:
        config = pipelines.SDXL if layout == "sdxl" else pipelines.SD1
        super().__init__(folder, config, xl=layout == "sdxl")
        widths = config["block_out_channels"]
        self.adapters = [adapter(layout, seed, channels=[*widths, widths[-1]][:4]) for seed in range(2)]
        for i, net in enumerate(self.adapters):
            nets.save(folder / f"adapter{i}.safetensors", net.state_dict())
        self.catalog.refresh()


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    return Adapted(tmp_path_factory.mktemp(request.param), request.param)


def theirs(world: Adapted, which: list[int], scales: list[float], share: float = 1.0) -> Tensor:
    kind = StableDiffusionXLAdapterPipeline if world.xl else StableDiffusionAdapterPipeline
    chosen = [world.adapters[i] for i in which]
    one = len(chosen) == 1
    parts = world.plain().components | {"adapter": chosen[0] if one else MultiAdapter(chosen)}
    if not world.xl:
        del parts["image_encoder"]
    pipe = kind(**parts, **({} if world.xl else {"requires_safety_checker": False}))
    pipe.set_progress_bar_config(disable=True)
    pictures = [torch.from_numpy(hint(i)).permute(2, 0, 1)[None].expand(2, -1, -1, -1) / 255 for i in which]
    options = {} if share == 1.0 else {"adapter_conditioning_factor": share}
    return world.run(
        pipe,
        image=pictures[0] if one else pictures,
        adapter_conditioning_scale=scales[0] if one else scales,
        **options,
    )


def test_pictures_equal_those_of_diffusers_pipeline(world: Adapted) -> None:
    ours, _ = world.ours([unit(0, model="adapter0", weight=0.8)])
    pipelines.assert_same(ours, theirs(world, [0], [0.8]), world.without_control())


def test_several_adapters_add_up_as_in_diffusers_multiadapter(world: Adapted) -> None:
    ours, _ = world.ours([unit(i, model=f"adapter{i}", weight=w) for i, w in enumerate((0.7, 0.5))])
    pipelines.assert_same(ours, theirs(world, [0, 1], [0.7, 0.5]), world.without_control())


def test_a_window_is_diffusers_conditioning_factor(world: Adapted) -> None:
    if not world.xl:
        pytest.skip("only SDXL's pipeline has adapter_conditioning_factor")
    ours, calls = world.ours([unit(0, model="adapter0", guidance_end=0.5)])
    assert calls == pipelines.STEPS // 2
    pipelines.assert_same(ours, theirs(world, [0], [1.0], 0.5), world.without_control())


@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
def test_soft_weights_are_those_of_the_field(tmp_path: Path, layout: str) -> None:
    """Incumbent: 0.25, 0.62, 0.825 and 1, the shallowest first; SDXL's middle block has the last."""
    stage = Stage(tmp_path, layout, "T2I-Adapter")
    soft = stage.output(stage.unit(control_mode="My prompt is more important", weight=0.5))
    listed = stage.output(stage.unit(advanced_weighting=[0.125, 0.31, 0.4125, 0.5]))
    assert (soft - stage.output(stage.unit(weight=0.5))).abs().mean() > 0.01
    torch.testing.assert_close(soft, listed, atol=1e-6, rtol=0)
    with pytest.raises(ControlError, match="takes 4"):
        stage.begin(stage.unit(advanced_weighting=[1.0] * 13))


def test_the_network_runs_once_in_a_pass(tmp_path: Path) -> None:
    path = nets.save(tmp_path / "net.safetensors", adapter("sd1").state_dict())
    match = family.recognise(read_header(path))
    network = match.family.load(match, Host())
    assert isinstance(network, Network)
    seen: list[int] = []
    network.conv_in.register_forward_hook(lambda *_: seen.append(1))
    start = Start(
        network, match, torch.rand(1, 3, 64, 64), np.zeros((64, 64, 3), np.uint8), ControlNetUnit(), Host()
    )
    running = match.family.begin(start)
    for _ in range(3):
        running.residuals(call(64, 64))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.pop("body.3.block2.bias"), "body.3.block2.bias"),
        (lambda t: t.update({"extra.weight": torch.zeros(1)}), "extra.weight"),
        (lambda t: t.update({"conv_in.weight": torch.zeros(32, 100, 3, 3)}), "reads 100 channels"),
        (lambda t: t.pop("body.7.block1.weight"), "7 resnets"),
    ],
)
def test_a_broken_file_says_what_is_wrong(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    tensors = original(adapter("sd1").state_dict())
    spoil(tensors)
    with pytest.raises(ControlError, match=said):
        begin(nets.save(tmp_path / "broken.safetensors", tensors), torch.rand(1, 3, 64, 64))
