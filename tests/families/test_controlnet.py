"""ControlNet files of every kind, against diffusers' own `ControlNetModel` configured by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import nets
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from nets import Config, Host
from torch import Tensor, nn

from controlstack import family, weights
from controlstack.errors import ControlError
from controlstack.families.controlnet import ControlNetFamily, Network
from controlstack.family import Match, Start
from controlstack.joints import Call, Control, Residuals, Row
from controlstack.layout import Base
from controlstack.unit import ControlNetUnit
from controlstack.weights import Header, read_header

SIDES = (8, 16)
ROWS = 3


class Problem:
    """A net, one evaluation, and diffusers' answer to it."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.net = nets.controlnet(config, seed)
        torch.manual_seed(seed + 100)
        x, t = torch.randn(ROWS, 4, *SIDES), torch.tensor([3.0, 500.25, 998.5])
        context = torch.randn(ROWS, 7, config["cross_attention_dim"])
        self.added: dict[str, Tensor] | None = None
        y = None
        if "addition_time_embed_dim" in config:
            self.added = {
                "text_embeds": torch.randn(ROWS, 24),
                "time_ids": torch.tensor([[64.0, 96, 0, 8, 64, 96]] * ROWS),
            }
            sizes = self.net.add_time_proj(self.added["time_ids"].flatten()).reshape(ROWS, -1)
            y = torch.cat([self.added["text_embeds"], sizes], dim=1)
        self.call = Call(x, t, context, y, tuple(Row(i) for i in range(ROWS)))
        self.hint = torch.rand(1, 3, *(8 * side for side in SIDES))

    def answer(self, hint: Tensor | None = None) -> Residuals:
        """One hint for all rows, which diffusers spreads over them too."""
        call, hint = self.call, self.hint if hint is None else hint
        skips, middle = self.net(
            call.x, call.t, call.context, hint, added_cond_kwargs=self.added, return_dict=False
        )
        return Residuals(tuple(skips), middle)

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())


def control(path: Path, hint: Tensor, host: Host | None = None) -> Control:
    """A unit as the engine makes it: recognise, load, begin."""
    match = family.recognise(read_header(path))
    return begin(match.family.load(match, host or Host()), match, hint)


def begin(network: nn.Module, match: Match, hint: Tensor) -> Control:
    nothing = np.zeros((*hint.shape[2:], 3), np.uint8)
    return match.family.begin(Start(network, match, hint, nothing, ControlNetUnit(), Host()))


def residuals(control: Control, problem: Problem) -> Residuals:
    """What a control adds, which must be something."""
    given = control.residuals(problem.call)
    assert given is not None
    return given


def assert_close(ours: Residuals, theirs: Residuals) -> None:
    assert ours.middle is not None
    assert theirs.middle is not None
    assert ours.encoder is None
    assert len(ours.skips) == len(theirs.skips)
    for a, b in zip((*ours.skips, ours.middle), (*theirs.skips, theirs.middle), strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= 1e-6


def save_pth(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save({"state_dict": tensors, "epoch": 3}, path)
    return path


FORMS: dict[str, Callable[[Path, dict[str, Tensor]], Path]] = {
    "diffusers": lambda folder, t: nets.save(folder / "x.safetensors", t),
    "ldm": lambda folder, t: nets.save(folder / "x.safetensors", nets.in_ldm(t)),
    "ldm with prefix": lambda folder, t: nets.save(
        folder / "x.safetensors", nets.in_ldm(t, "control_model.")
    ),
    "pth": lambda folder, t: save_pth(folder / "x.pth", nets.in_ldm(t, "control_model.")),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", nets.LAYOUTS)
def test_residuals_equal_those_of_diffusers(tmp_path: Path, layout: str, form: str) -> None:
    problem = Problem(nets.LAYOUTS[layout])
    theirs, other = problem.answer(), problem.answer(torch.zeros_like(problem.hint))
    for one, two in zip((*theirs.skips, theirs.middle), (*other.skips, other.middle), strict=True):
        assert one is not None
        assert two is not None
        assert float((one - two).abs().max()) > 1e-2, "the reference itself must depend on the hint"
    path = FORMS[form](tmp_path, problem.tensors())
    assert_close(residuals(control(path, problem.hint), problem), theirs)


def test_in_a_whole_checkpoint_only_the_control_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(nets.SD1)
    base = nets.in_ldm(nets.unet(nets.SD1, seed=5).state_dict(), "model.diffusion_model.")
    inside = nets.in_ldm(problem.tensors(), "control_model.")
    path = nets.save(tmp_path / "control_sd15_canny.safetensors", base | inside | {"betas": torch.rand(1000)})
    read: list[str] = []

    class Watched:
        def __init__(self, *args: str, **kwargs: str) -> None:
            self.opened = safe_open(*args, **kwargs)

        def __enter__(self) -> Watched:
            self.file = self.opened.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.opened.__exit__(*error)

        def get_tensor(self, name: str) -> Tensor:
            read.append(name)
            return self.file.get_tensor(name)

    match = family.recognise(read_header(path))
    safe_open = weights.safe_open
    monkeypatch.setattr(weights, "safe_open", Watched)
    network = match.family.load(match, Host())
    assert sorted(read) == sorted(inside)
    assert_close(residuals(begin(network, match, problem.hint), problem), problem.answer())


@pytest.mark.parametrize("in_channels", [4, 9])
def test_a_difference_file_is_completed_by_the_live_unet(tmp_path: Path, in_channels: int) -> None:
    """Also by an inpaint UNet, whose first convolution reads five channels more, behind the latent's four."""
    problem = Problem(nets.SD1)
    live = dict(nets.unet(nets.SD1, seed=5).state_dict())
    stored = {
        name: tensor - live[name] if name in live else tensor for name, tensor in problem.tensors().items()
    }
    extra = torch.rand(32, in_channels - 4, 3, 3)
    host = Host(weights=live | {"conv_in.weight": torch.cat([live["conv_in.weight"], extra], dim=1)})
    path = nets.save(tmp_path / "diff.safetensors", nets.in_ldm(stored) | {"difference": torch.zeros(1)})
    ours, theirs = residuals(control(path, problem.hint, host), problem), problem.answer()
    for a, b in zip((*ours.skips, ours.middle), (*theirs.skips, theirs.middle), strict=True):
        assert a is not None
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)  # a - b + b is not quite a


def test_a_difference_file_without_the_unets_weights_is_refused(tmp_path: Path) -> None:
    stored = nets.in_ldm(nets.controlnet(nets.SD1).state_dict()) | {"difference": torch.zeros(1)}
    path = nets.save(tmp_path / "diff.safetensors", stored)
    with pytest.raises(ControlError, match="differences from the checkpoint"):
        control(path, torch.rand(1, 3, 64, 64))


def test_shuffle_models_average_over_the_picture_and_act_on_the_positive_prompt_only(tmp_path: Path) -> None:
    problem = Problem(nets.SD1)
    path = nets.save(tmp_path / "control_v11e_sd15_Shuffle.safetensors", nets.in_ldm(problem.tensors()))
    assert family.recognise(read_header(path)).cond_only
    whole = problem.answer()
    assert whole.middle is not None
    pooled = [
        feature.mean((2, 3), keepdim=True).expand_as(feature) for feature in (*whole.skips, whole.middle)
    ]
    assert_close(residuals(control(path, problem.hint), problem), Residuals(tuple(pooled[:-1]), pooled[-1]))


def test_the_hint_is_encoded_once_in_a_pass(tmp_path: Path) -> None:
    problem = Problem(nets.SDXL_SMALL)
    match = family.recognise(read_header(FORMS["ldm"](tmp_path, problem.tensors())))
    network = match.family.load(match, Host())
    assert isinstance(network, Network)
    seen: list[int] = []
    network.hint_encoder.register_forward_hook(lambda *_: seen.append(1))
    running = begin(network, match, problem.hint)
    for _ in range(3):
        running.residuals(problem.call)
    assert len(seen) == 1


def test_two_units_share_a_model_and_none_changes_it(tmp_path: Path) -> None:
    """The incumbent keeps a unit's hint on the model, so that two units of one T2I-Adapter get the same."""
    problem = Problem(nets.SDXL)
    match = family.recognise(read_header(FORMS["diffusers"](tmp_path, problem.tensors())))
    network = match.family.load(match, Host())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    hints = [problem.hint, torch.rand_like(problem.hint)]
    units = [begin(network, match, hint) for hint in hints]
    for unit, hint in [*zip(units, hints, strict=True), (units[0], hints[0])]:
        assert_close(residuals(unit, problem), problem.answer(hint))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_it_computes_in_the_hosts_dtype_and_answers_in_the_calls(tmp_path: Path) -> None:
    problem = Problem(nets.SDXL)
    path = FORMS["diffusers"](tmp_path, problem.tensors())
    ours, theirs = (
        control(path, problem.hint, Host(dtype=torch.bfloat16)).residuals(problem.call),
        problem.answer(),
    )
    for a, b in zip((*ours.skips, ours.middle), (*theirs.skips, theirs.middle), strict=True):
        assert a is not None
        assert b is not None
        assert a.dtype == torch.float32
        error = float((a - b).norm() / b.norm())
        assert 1e-4 < error < 3e-2  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("inner", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("outer", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_any_gradient_mode_does(tmp_path: Path, outer: type, inner: type) -> None:
    """Forge samples in inference mode, A1111 without gradients; models outlive the mode of their loading."""
    problem = Problem(nets.SDXL_SMALL)
    path = FORMS["ldm"](tmp_path, problem.tensors())
    with outer():
        running = control(path, problem.hint)
    with inner():
        ours = running.residuals(problem.call)
    assert_close(ours, problem.answer())
    assert not any(skip.requires_grad for skip in ours.skips)


def relatives() -> dict[str, dict[str, Tensor]]:
    """Other kinds of control files, with the tensor names of diffusers' own classes where it has one."""
    torch.manual_seed(0)
    small = dict(block_out_channels=(32, 32), cross_attention_dim=32, attention_head_dim=4)
    blocks = dict(down_block_types=(nets.ATTENTION, nets.DOWN))
    files = {
        "SparseCtrl": diffusers.SparseControlNetModel(
            **small,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            motion_num_attention_heads=4,
        ).state_dict(),
        "T2I-Adapter": diffusers.T2IAdapter(channels=[32, 32], num_res_blocks=1).state_dict(),
        "Control-LoRA": nets.in_ldm(nets.controlnet(nets.SDXL).state_dict())
        | {"lora_controlnet": torch.zeros(1)},
        "UNet": nets.in_ldm(nets.unet(nets.SD1).state_dict(), "model.diffusion_model."),
    }
    if hasattr(diffusers, "ControlNetUnionModel"):
        union = diffusers.ControlNetUnionModel(
            **small,
            **blocks,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
        )
        files["Union"] = union.state_dict()
    return files


def test_relatives_are_left_to_their_own_families() -> None:
    for kind, tensors in relatives().items():
        header = Header(Path(f"{kind}.safetensors"), {name: tuple(t.shape) for name, t in tensors.items()})
        assert ControlNetFamily().match(header) is None, kind


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.pop("zero_convs.3.0.bias"), "lacks controlnet_down_blocks.3.bias"),
        (lambda t: t.update({"adapter.up": torch.zeros(1)}), "unknown adapter.up"),
        (
            lambda t: t.update({"time_embed.0.bias": torch.zeros(9)}),
            "wrong size are time_embedding.linear_1.bias",
        ),
        (lambda t: t.pop("input_blocks.0.0.weight"), "conv_in.weight"),
        (lambda t: t.update({"input_hint_block.0.weight": torch.zeros(4, 1, 3, 3)}), "1 hint and 4 latent"),
    ],
)
def test_a_broken_file_says_what_is_wrong(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    tensors = nets.in_ldm(nets.controlnet(nets.SDXL_SMALL).state_dict())
    spoil(tensors)
    with pytest.raises(ControlError, match=said):
        control(nets.save(tmp_path / "broken.safetensors", tensors), torch.rand(1, 3, 64, 64))


PUBLISHED = {
    "sd1": (nets.FULL_SD1, Base(320, 768, None, 12), "SD1.x"),
    "sd2": (nets.FULL_SD2, Base(320, 1024, None, 12), "SD2.x"),
    "sdxl": (nets.FULL_SDXL, Base(320, 2048, 2816, 9), "SDXL"),
    "sdxl mid": (nets.FULL_SDXL_MID, Base(320, 2048, 2816, 9), "SDXL"),
    "sdxl small": (nets.FULL_SDXL_SMALL, Base(320, None, 2816, 9), "SDXL"),
}


@pytest.mark.parametrize("ldm", [False, True])
@pytest.mark.parametrize("which", PUBLISHED)
def test_headers_of_published_sizes_are_read(which: str, ldm: bool) -> None:
    config, base, name = PUBLISHED[which]
    shapes = nets.full_size_shapes(config)
    header = Header(Path("model.safetensors"), nets.in_ldm(shapes, "control_model.") if ldm else shapes)
    match = ControlNetFamily().match(header)
    assert match is not None
    assert (match.base, match.base.name) == (base, name)
    assert match.layers == base.blocks + 1
    assert match.cond_only is False


@pytest.mark.parametrize("which", PUBLISHED)
def test_published_sizes_give_the_published_configuration(which: str) -> None:
    config, _, _ = PUBLISHED[which]
    shapes = nets.full_size_shapes(config)
    match = ControlNetFamily().match(Header(Path("model.safetensors"), shapes))
    assert match is not None
    with torch.device("meta"):
        rebuilt = ControlNetModel(**match.detail.layout.controlnet_config())  # type: ignore[attr-defined]
        theirs = ControlNetModel(**config)
    assert {name: tuple(t.shape) for name, t in rebuilt.state_dict().items()} == shapes
    assert heads(rebuilt) == heads(theirs)
    assert norms(rebuilt) == norms(theirs)


def heads(net: nn.Module) -> list[int]:
    return [module.heads for name, module in net.named_modules() if name.endswith(("attn1", "attn2"))]


def norms(net: nn.Module) -> list[tuple[int, float]]:
    return [(m.num_groups, m.eps) for m in net.modules() if isinstance(m, nn.GroupNorm)]
