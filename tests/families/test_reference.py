"""Reference against the two passes of diffusers' community pipeline `stable_diffusion_reference`
(huggingface/diffusers, examples/community, Apache-2.0), written with plain hooks on diffusers' own modules:
the formulas of its `hacked_basic_transformer_inner_forward` and `hacked_mid_forward`, with `style_fidelity`.

The blocks of AdaIN and their weights are sd-webui-controlnet's, which differ from the pipeline's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from numpy.typing import NDArray
from stage import LAYOUTS, ROWS, Stage, inputs, picture
from torch import Tensor, nn

from controlstack.joints import RowKind

T = 700
NEGATIVE = torch.tensor([row.kind is RowKind.UNCOND for row in ROWS])


@pytest.fixture(scope="module", params=LAYOUTS)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("models"), request.param, "reference by both")


def unit(stage: Stage, seed: int = 0, module: str = "reference_only", **fields: Any) -> dict[str, Any]:
    return stage.unit(seed, module=module, **fields)


def noisy(seen: NDArray[Any]) -> Tensor:
    """A reference as the UNet sees it: the stage's VAE, then DDPM's q_sample."""
    cells = nn.functional.avg_pool2d(torch.from_numpy(seen).permute(2, 0, 1)[None] / 255, 8) * 200 - 100
    latents = torch.cat([cells, cells[:, :1]], dim=1)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(T))
    return DDIMScheduler().add_noise(latents, noise, torch.tensor([T])).expand(len(ROWS), -1, -1, -1)


class TwoPasses:
    """The UNet once for each reference, writing, then once reading."""

    def __init__(
        self,
        unet: Any,
        fidelity: float,
        attending: Sequence[nn.Module],
        blocks: Sequence[nn.Module],
        of_blocks: float | None = None,
    ) -> None:
        """of_blocks: that of blocks, if the first reference is for attention and the second for them"""
        self.unet, self.fidelity, self.reading = unet, fidelity, False
        self.of_blocks, self.passes = of_blocks, 0
        self.attending, self.blocks = attending, blocks
        self.tokens: dict[nn.Module, list[Tensor]] = {layer: [] for layer in attending}
        self.moments: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {block: [] for block in blocks}

    @torch.no_grad()
    def output(self, layout: str, references: Sequence[Tensor]) -> Tensor:
        x, t, context, added = inputs(layout)
        with self._hooked():
            for reference in references:
                self.unet(reference, t, context, added_cond_kwargs=added)
                self.passes += 1
            self.reading = True
            result: Tensor = self.unet(x, t, context, added_cond_kwargs=added, return_dict=False)[0]
        return result

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        with ExitStack() as stack:
            for layer in self.attending:
                plain: Any = layer.forward
                layer.forward = partial(self._attend, layer, plain)  # type: ignore[method-assign]
                stack.callback(delattr, layer, "forward")
            for block in self.blocks:
                stack.callback(block.register_forward_hook(self._normalise).remove)
            yield

    def _attend(self, layer: nn.Module, plain: Any, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        own: Tensor = plain(hidden)
        if not self.reading:
            if self.of_blocks is None or self.passes == 0:
                self.tokens[layer].append(hidden)
            return own
        both: Tensor = plain(hidden, encoder_hidden_states=torch.cat([hidden, *self.tokens[layer]], dim=1))
        return self._mixed(both, own, self.fidelity)

    def _normalise(self, block: nn.Module, _: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        var, mean = torch.var_mean(x, dim=(2, 3), keepdim=True, correction=0)
        if not self.reading:
            if self.of_blocks is None or self.passes == 1:
                self.moments[block].append((var, mean))
            return None
        std = torch.maximum(var, torch.full_like(var, 1e-6)) ** 0.5
        var_acc, mean_acc = (sum(part) / len(part) for part in zip(*self.moments[block], strict=True))
        std_acc = torch.maximum(var_acc, torch.full_like(var, 1e-6)) ** 0.5
        fidelity = self.fidelity if self.of_blocks is None else self.of_blocks
        x = self._mixed((x - mean) / std * std_acc + mean_acc, x, fidelity)
        return (x, *output[1:]) if isinstance(output, tuple) else x

    def _mixed(self, changed: Tensor, own: Tensor, fidelity: float) -> Tensor:
        conditional = changed.clone()
        conditional[NEGATIVE] = own[NEGATIVE]
        return fidelity * conditional + (1 - fidelity) * changed


def self_attention(unet: Any) -> list[nn.Module]:
    """All layers, the widest first, in the order in which LDM counts them."""
    ordered = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    layers = [m for part in ordered for name, m in part.named_modules() if name.endswith("attn1")]
    return sorted(layers, key=lambda layer: -layer.to_q.out_features)


def normalised(unet: Any, layout: str, weight: float) -> list[nn.Module]:
    """What ends the blocks of which sd-webui-controlnet's gn_weight is less than the unit's weight: 0 for the
    middle; 2 (1 - j/n) for input blocks 4, 5, 7, 8 (and 10, 11 of SD1); 2 j/n for output blocks 0..7, or
    0..5 of SDXL."""
    encoder = [4, 5, 7, 8, 10, 11] if layout == "sd1" else [4, 5, 7, 8]
    decoder = range(8) if layout == "sd1" else range(6)
    ends = [unet.mid_block]
    for j, nth in enumerate(encoder):
        level = unet.down_blocks[(nth - 1) // 3]
        if 2 * (1 - j / len(encoder)) < weight:
            ends.append((getattr(level, "attentions", None) or level.resnets)[(nth - 1) % 3])
    for j in decoder:
        level = unet.up_blocks[j // 3]
        if 2 * j / len(decoder) < weight:
            last = j % 3 == 2 and level.upsamplers
            ends.append(
                level.upsamplers[0] if last else (getattr(level, "attentions", None) or level.resnets)[j % 3]
            )
    return ends


def fidelity(layout: str, slider: float) -> float:
    return slider**3 if layout == "sdxl" else slider


def visible(change: Tensor, plain: Tensor) -> bool:
    return bool(change.abs().mean() > 0.02 * plain.abs().mean())


@pytest.mark.parametrize("weight", [0.4, 1.0])
def test_attention_is_the_pipelines(stage: Stage, weight: float) -> None:
    """A weight below 1 leaves the narrower layers alone: attn_weight = i/N, the widest first."""
    layers = self_attention(stage.unet)
    taking_part = [layer for i, layer in enumerate(layers) if weight > i / len(layers)]
    expected = TwoPasses(stage.unet, fidelity(stage.layout, 0.7), taking_part, []).output(
        stage.layout, [noisy(picture(0))]
    )
    ours, plain = stage.output(unit(stage, threshold_a=0.7, weight=weight)), stage.output()
    assert len(taking_part) < len(layers) or weight == 1
    assert visible(expected - plain, plain)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("weight", [0.6, 2.0])
@pytest.mark.parametrize("module", ["reference_adain", "reference_adain+attn"])
def test_statistics_are_the_incumbents(stage: Stage, module: str, weight: float) -> None:
    layers = self_attention(stage.unet)
    attending = [one for i, one in enumerate(layers) if weight > i / len(layers) and module.endswith("attn")]
    blocks = normalised(stage.unet, stage.layout, weight)
    passes = TwoPasses(stage.unet, fidelity(stage.layout, 0.25), attending, blocks)
    expected = passes.output(stage.layout, [noisy(picture(0))])
    ours = stage.output(unit(stage, module=module, threshold_a=0.25, weight=weight))
    assert visible(expected - stage.output(), expected)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_two_references_lie_side_by_side(stage: Stage) -> None:
    """Their tokens in one softmax, their moments averaged, style fidelity too; and the UNet runs twice."""
    blocks = normalised(stage.unet, stage.layout, 1.0)
    mean = (fidelity(stage.layout, 0.2) + fidelity(stage.layout, 0.8)) / 2
    passes = TwoPasses(stage.unet, mean, self_attention(stage.unet), blocks)
    expected = passes.output(stage.layout, [noisy(picture(0)), noisy(picture(1))])
    runs: list[int] = []
    counter = stage.unet.conv_in.register_forward_hook(lambda *call: runs.append(len(call[2])))
    both = "reference_adain+attn"
    ours = stage.output(unit(stage, 0, both, threshold_a=0.2), unit(stage, 1, both, threshold_a=0.8))
    counter.remove()
    assert runs == [2 * len(ROWS), len(ROWS)]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_fidelity_is_that_of_the_references_in_a_layer(stage: Stage) -> None:
    """Attention is one unit's alone, AdaIN the other's."""
    attending, blocks = self_attention(stage.unet), normalised(stage.unet, stage.layout, 1.0)
    ours = stage.output(unit(stage, 0, "reference_only", threshold_a=1), unit(stage, 1, "reference_adain"))
    passes = TwoPasses(stage.unet, 1.0, attending, blocks, of_blocks=fidelity(stage.layout, 0.5))
    expected = passes.output(stage.layout, [noisy(picture(0)), noisy(picture(1))])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_units_that_act_at_different_times_share_the_pass_too(stage: Stage) -> None:
    runs: list[int] = []
    counter = stage.unet.conv_in.register_forward_hook(lambda *call: runs.append(len(call[2])))
    stage.output(unit(stage), unit(stage, 1, control_mode="ControlNet is more important"))
    counter.remove()
    assert runs == [len(ROWS) + int((~NEGATIVE).sum()), len(ROWS)]


def test_control_modes_are_ends_of_style_fidelity(stage: Stage) -> None:
    plain = stage.output()
    control, all_fidelity, prompt, none = (
        stage.output(unit(stage, **fields))
        for fields in (
            {"control_mode": "ControlNet is more important"},
            {"threshold_a": 1},
            {"control_mode": "My prompt is more important"},
            {"threshold_a": 0},
        )
    )
    torch.testing.assert_close(control, all_fidelity, atol=1e-5, rtol=0)
    torch.testing.assert_close(control[NEGATIVE], plain[NEGATIVE], atol=1e-5, rtol=0)
    assert torch.equal(prompt, none)
    assert visible((none - plain)[NEGATIVE], plain)


def test_the_high_resolution_pass_has_no_style_fidelity_and_its_own_weight(stage: Stage) -> None:
    both, prompt = partial(unit, stage, 0, "reference_adain+attn"), "My prompt is more important"
    session = stage.begin(both(threshold_a=1, hires={"weight": 0.4}), hires=True)
    expected = stage.output(both(weight=0.4, control_mode=prompt))
    assert torch.equal(stage.evaluate(session, hires=True), expected)
    assert visible(expected - stage.output(both(weight=0.4, threshold_a=1)), expected)
    assert visible(expected - stage.output(both(control_mode=prompt)), expected)


def test_noise_is_a_matter_of_the_seed(stage: Stage, tmp_path: Path) -> None:
    first = stage.output(unit(stage))
    assert torch.equal(stage.output(unit(stage)), first)
    stage.seed = 1
    try:
        assert visible(stage.output(unit(stage)) - first, first)
    finally:
        stage.seed = 0


def test_a_model_beside_it_is_not_asked(stage: Stage) -> None:
    """Clients leave the model of another control type in the field; sd-webui-controlnet ignores it too."""
    given = {**unit(stage), "model": "control_v11p_sd15_canny"}
    assert torch.equal(stage.output(given), stage.output(unit(stage)))
