"""ControlNet-LLLite files against their formula, put into the UNet's projections by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import Host
from stage import SIZE, Stage, picture
from tiny.lllite import targets, tensors
from torch import Tensor, nn

from controlstack import family
from controlstack.errors import ControlError
from controlstack.families.lllite import Layer, LLLiteFamily
from controlstack.joints import Block, Call, Row, Site
from controlstack.layout import Base
from controlstack.weights import read_header


def paths(layout: str) -> dict[str, str]:
    """kohya's name -> the diffusers UNet's name of the projection."""
    unet = nets.unet(nets.LAYOUTS[layout])
    linear = {path: module for path, module in unet.named_modules() if isinstance(module, nn.Linear)}
    named = {}
    for name in targets(layout):
        where, rest = name.removeprefix("lllite_unet_").split("_1_transformer_blocks_")
        transformer, attention, _, role = rest.split("_")
        inner = f"transformer_blocks.{transformer}.{attention}.to_{role}"
        if where == "middle_block":
            path = f"mid_block.attentions.0.{inner}"
        else:
            level, nth = divmod(int(where.removeprefix("input_blocks_")) - 1, 3)
            path = f"down_blocks.{level}.attentions.{nth}.{inner}"
        assert path in linear
        named[name] = path
    return named


@contextmanager
def by_hand(
    unet: nn.Module, layout: str, held: dict[str, Tensor], image: Tensor, factor: float
) -> Iterator[None]:
    """kohya-ss/sd-scripts, networks/control_net_lllite.py, `LLLiteModule.forward`: the projection of
    x + up(relu(mid([conditioning1(image), relu(down(x))]))) * multiplier, the image "1 3 H W" in -1..1."""
    hooks = []
    for name, path in paths(layout).items():
        own = {key.removeprefix(f"{name}."): t for key, t in held.items() if key.startswith(f"{name}.")}

        def before(_: nn.Module, args: tuple[Tensor], own: dict[str, Tensor] = own) -> tuple[Tensor]:
            (x,), embedding = args, image
            for i in (0, 2, 4):
                if f"conditioning1.{i}.weight" in own:
                    weight = own[f"conditioning1.{i}.weight"]
                    embedding = F.conv2d(
                        embedding.relu() if i else embedding,
                        weight,
                        own[f"conditioning1.{i}.bias"],
                        weight.shape[2],
                    )
            tokens = embedding.flatten(2).transpose(1, 2).expand(len(x), -1, -1)
            small = F.linear(x, own["down.0.weight"], own["down.0.bias"]).relu()
            seen = F.linear(torch.cat([tokens, small], dim=2), own["mid.0.weight"], own["mid.0.bias"]).relu()
            return (x + F.linear(seen, own["up.0.weight"], own["up.0.bias"]) * factor,)

        hooks.append(unet.get_submodule(path).register_forward_pre_hook(before))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("models"), request.param, "ControlNet-LLLite")


@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_the_unets_output_equals_the_formula(stage: Stage, weight: float) -> None:
    ours, plain = stage.output(stage.unit(weight=weight)), stage.output()
    image = torch.from_numpy(picture(0)).permute(2, 0, 1)[None] / 255 * 2 - 1
    with by_hand(stage.unet, stage.layout, tensors(stage.layout, 0), image, weight):
        theirs = stage.output()
    assert (theirs - plain).abs().mean() > 0.05 * plain.abs().mean()
    assert (ours - theirs).abs().max() <= 1e-5


def test_files_with_diffusers_names_say_the_same(stage: Stage) -> None:
    named = {name: "lllite_unet_" + path.replace(".", "_") for name, path in paths(stage.layout).items()}
    renamed = {}
    for key, tensor in tensors(stage.layout, 0).items():
        layer, _, rest = key.partition(".")
        renamed[f"{named[layer]}.{rest}"] = tensor
    nets.save(stage.catalog.folders[0] / "renamed.safetensors", renamed)
    stage.catalog.refresh()
    assert torch.equal(stage.output(stage.unit(model="renamed")), stage.output(stage.unit()))


def test_the_picture_is_embedded_once_in_a_pass(stage: Stage) -> None:
    session = stage.begin(stage.unit())
    calls = []
    layers = [layer for layer in session._networks[0].modules() if isinstance(layer, Layer)]
    hooks = [layer.conditioning1.register_forward_pre_hook(lambda *_: calls.append(1)) for layer in layers]
    stage.evaluate(session)
    stage.evaluate(session)
    assert not calls
    stage.begin(stage.unit())
    assert len(calls) == len(layers) == len(targets(stage.layout))
    for hook in hooks:
        hook.remove()


def test_the_hires_pass_has_its_own_embedding(stage: Stage) -> None:
    session = stage.begin(stage.unit())
    network = session._networks[0]
    session.begin(SIZE + 32, SIZE + 64, session._services, hires=True)  # type: ignore[arg-type]
    ((*_, control),) = session._controls
    assert session._networks[-1] is network
    site = Site(Block("input", 4), 0, cross=False)
    tokens = (SIZE + 32) // 16 * ((SIZE + 64) // 16)
    h = torch.randn(2, tokens, nets.LAYOUTS[stage.layout]["block_out_channels"][1])
    call = Call(
        torch.zeros(2, 4, 16, 12), torch.zeros(2), torch.zeros(2, 7, 8), None, (Row(0), Row(1)), hires=True
    )
    change = control.projected(site, "q", h, call)
    assert change is not None
    assert change.std() > 0.1
    assert control.projected(Site(Block("output", 4), 0, cross=False), "q", h, call) is None


@pytest.mark.parametrize(("height", "width"), [(72, 136), (104, 40)])
def test_odd_sizes_have_as_many_tokens_as_the_unet(stage: Stage, height: int, width: int) -> None:
    """The UNet halves rounding up."""
    session = stage.begin(stage.unit())
    session.begin(width, height, session._services, hires=True)  # type: ignore[arg-type]
    ((*_, control),) = session._controls
    for place, embedded in control._embedded.items():  # type: ignore[attr-defined]
        level = {1: 0, 2: 0, 4: 1, 5: 1, 7: 2, 8: 2, 0: 2}[place[0].block.nth]
        assert embedded.shape[1] == -(-height // (8 << level)) * -(-width // (8 << level))


def test_merged_tokens_are_an_error_in_words(stage: Stage) -> None:
    ((*_, control),) = stage.begin(stage.unit())._controls
    h = torch.randn(1, 5, nets.LAYOUTS[stage.layout]["block_out_channels"][1])
    call = Call(torch.zeros(1, 4, 8, 8), torch.zeros(1), torch.zeros(1, 7, 8), None, (Row(0),))
    with pytest.raises(ControlError, match="merge tokens"):
        control.projected(Site(Block("input", 4), 0, cross=False), "q", h, call)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t, one: t.pop(f"{one}.mid.0.bias"), "lacks mid.0.bias"),
        (
            lambda t, one: t.update({"lllite_unet_input_blocks_4_1_proj_in.up.0.weight": torch.zeros(1)}),
            "no projection",
        ),
        (lambda t, one: t.update({f"{one}.up.0.weight": torch.zeros(4, 4, 1, 1)}), "is a convolution"),
        (
            lambda t, one: t.update({f"{one}.conditioning1.0.weight": torch.zeros(8, 4, 4, 4)}),
            "reads 4 channels",
        ),
    ],
)
def test_a_broken_file_says_what_is_wrong(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor], str], object], said: str
) -> None:
    held = tensors("sdxl", 0)
    spoil(held, next(iter(targets("sdxl"))))
    with pytest.raises(ControlError, match=said):
        family.recognise(read_header(nets.save(tmp_path / "broken.safetensors", held)))


def test_what_it_is_made_for_is_read_from_the_shapes(tmp_path: Path) -> None:
    for layout, base in (("sd1", Base(32, None, None, 12)), ("sdxl", Base(32, None, 0, 9))):
        path = nets.save(tmp_path / f"{layout}.safetensors", tensors(layout, 0))
        match = LLLiteFamily().match(read_header(path))
        assert match is not None
        assert match.base == base
        network = match.family.load(match, Host(dtype=torch.bfloat16))
        assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
