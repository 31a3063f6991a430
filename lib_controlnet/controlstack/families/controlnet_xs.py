"""ControlNet-XS: a small encoder that runs beside the UNet's, each hearing the other at every block (Zavadski
et al., arXiv 2312.06573).

At each block of the encoder it reads the UNet's features before the block and adds to them behind it; what it
had found there is added again where the decoder reads that skip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from controlstack import copied_encoder
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Block, Call, Control, Services
from controlstack.layout import ANY, HEADS, Base, EncoderLayout
from controlstack.weights import Header, read_tensors

MARK = "control_to_base_for_conv_in.weight"
HEARS = "down_blocks.{}.ctrl_to_base.0.weight"
TIMES = ("time_embedding", "add_embedding")
"""The UNet's embeddings of the timestep and of SDXL's vector, by diffusers' names."""


@dataclass(frozen=True)
class Reading:
    """What a file says of itself.

    layout: of the small encoder
    widths: of the UNet's levels
    """

    layout: EncoderLayout
    widths: tuple[int, ...]

    @property
    def xl(self) -> bool:
        return len(self.widths) == 3

    def heads(self, given: str | None) -> tuple[int, ...]:
        """Attention heads per level, which leave no trace in the shapes; these are those of the authors'
        configurations (vislearn/ControlNet-XS at 8d90ed4)."""
        if given is not None:
            heads = json.loads(given)
            return (heads,) * len(self.widths) if isinstance(heads, int) else tuple(heads)
        if self.layout.context == 768:
            return (8,) * len(self.widths)
        return tuple(max(1, width // (64 if self.xl else 8)) for width in self.layout.channels)


class ControlNetXSFamily(Family):
    """Files of diffusers' `ControlNetXSAdapter`, for SD1, SD2 and SDXL."""

    name = "ControlNet-XS"

    def match(self, header: Header) -> Match | None:
        if MARK not in header.shapes:
            return None
        layout = EncoderLayout.read(header.shapes, header.metadata)
        levels = range(len(layout.channels))
        reading = Reading(layout, tuple(header.shapes[HEARS.format(level)][0] for level in levels))
        base = Base(reading.widths[0], layout.context, ANY if reading.xl else None, 3 * len(levels))
        return Match(self, header, base, detail=reading)

    def load(self, match: Match, services: Services) -> nn.Module:
        from diffusers import ControlNetXSAdapter

        reading, header = cast(Reading, match.detail), cast(Header, match.header)
        layout = reading.layout
        with torch.device("meta"):
            net: Any = ControlNetXSAdapter(
                conditioning_channels=layout.hint[0],
                conditioning_embedding_out_channels=layout.hint[1:],
                learn_time_embedding="time_embedding.linear_1.weight" in header.shapes,
                num_attention_heads=reading.heads(header.metadata.get(HEADS)),
                block_out_channels=layout.channels,
                base_block_out_channels=reading.widths,
                cross_attention_dim=layout.context,
                down_block_types=tuple(
                    "CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in layout.depth
                ),
                transformer_layers_per_block=tuple(depth or 1 for depth in layout.depth),
                max_norm_num_groups=32,
                use_linear_projection=layout.linear,
            )
        copied_encoder.check(header, copied_encoder.shapes_of(net), header.shapes)
        tensors = read_tensors(header, header.shapes, dtype=services.dtype, device=services.device)
        net.load_state_dict(tensors, assign=True)
        return cast(nn.Module, net.requires_grad_(False).eval())

    def begin(self, start: Start) -> Control:
        return Pass(start.model, start.hint, start.services)


class Step(NamedTuple):
    """One block of the small encoder: what it hears, its layers, and what the UNet hears of it."""

    hears: nn.Module
    layers: tuple[nn.Module, ...]
    tells: nn.Module


def _steps(net: Any) -> Iterator[tuple[Block, Step]]:
    """By the UNet's blocks, after the first convolution."""
    nth = 1
    for level in net.down_blocks:
        parts: list[tuple[nn.Module, ...]] = list(zip(level.resnets))
        if level.attentions is not None:
            parts = list(zip(level.resnets, level.attentions, strict=True))
        if level.downsamplers is not None:
            parts.append((level.downsamplers,))
        for hears, layers, tells in zip(level.base_to_ctrl, parts, level.ctrl_to_base, strict=True):
            yield Block("input", nth), Step(hears, layers, tells)
            nth += 1
    middle = net.mid_block
    yield Block("middle", 0), Step(middle.base_to_ctrl, (middle.midblock,), middle.ctrl_to_base)


class Pass(Control):
    """The small encoder in one sampling pass. Within an evaluation it goes along with the UNet, block by
    block, in the order in which the UNet asks."""

    def __init__(self, net: Any, hint: Tensor, services: Services) -> None:
        self._net = net
        self._like = next(net.parameters())
        self._steps = dict(_steps(net))
        self._tells_skips = [tells for level in net.up_connections for tells in level.ctrl_to_base]
        self._weights = {
            f"{part}.{layer}.{kind}": services.weight(f"{part}.{layer}.{kind}")
            for part in TIMES
            for layer in ("linear_1", "linear_2")
            for kind in ("weight", "bias")
        }
        with torch.no_grad():
            self._hint = net.controlnet_cond_embedding(hint.to(self._like))
        self._time: Tensor = self._like
        self._h: Tensor = self._like
        self._skips: list[Tensor] = []

    def timestep(self, embedding: Tensor, call: Call) -> Tensor | None:
        """Where the small encoder has learnt an embedding of its own, both use that one: the authors' models
        were trained with it alone (`control_scale` 1)."""
        change = None
        if self._net.time_embedding is not None:
            with torch.no_grad():
                width = self._net.config.base_block_out_channels[0]
                own = self._net.time_embedding(_waves(call.t, width).to(self._like))
            change = own.to(embedding) - embedding
        self._time = embedding if change is None else embedding + change
        if call.y is not None and self._weights["add_embedding.linear_1.weight"] is not None:
            self._time = self._time + _embedded(call.y, self._weights, "add_embedding").to(embedding)
        self._time = self._time.to(self._like)
        return change

    def entering(self, block: Block, h: Tensor, call: Call) -> Tensor | None:
        with torch.no_grad():
            if block.part == "output":
                told = self._tells_skips[block.nth](self._skips.pop())
                return F.pad(told, (0, 0, 0, 0, 0, h.shape[1] - told.shape[1]))
            if block == ("input", 0):
                self._h = self._net.conv_in(call.x.to(self._like)) + self._hint
                self._skips = [self._h]
                return None
            step = self._steps[block]
            self._h = torch.cat([self._h, step.hears(h.to(self._like))], dim=1)
            context = call.context.to(self._like)
            for layer in step.layers:
                self._h = _run(layer, self._h, self._time, context)
        if block.part == "input":
            self._skips.append(self._h)
        return None

    def leaving(self, block: Block, h: Tensor, call: Call) -> Tensor | None:
        if block.part == "output":
            return None
        tells = self._net.control_to_base_for_conv_in if block == ("input", 0) else self._steps[block].tells
        with torch.no_grad():
            return cast(Tensor, tells(self._h))


def _run(layer: Any, h: Tensor, time: Tensor, context: Tensor) -> Tensor:
    kind = type(layer).__name__
    if kind == "Transformer2DModel":
        return cast(Tensor, layer(h, context, return_dict=False)[0])
    if kind == "UNetMidBlock2DCrossAttn":
        return cast(Tensor, layer(h, time, encoder_hidden_states=context))
    return cast(Tensor, layer(h) if kind == "Downsample2D" else layer(h, time))


def _waves(t: Tensor, width: int) -> Tensor:
    """The sinusoids "R width" of timesteps "R"."""
    from diffusers.models.embeddings import get_timestep_embedding

    waves = get_timestep_embedding(t, width, flip_sin_to_cos=True, downscale_freq_shift=0)
    return cast(Tensor, waves)


def _embedded(values: Tensor, weights: Mapping[str, Tensor | None], part: str) -> Tensor:
    """What one of the UNet's embeddings makes of its input."""
    for layer in ("linear_1", "linear_2"):
        weight, bias = (cast(Tensor, weights[f"{part}.{layer}.{kind}"]) for kind in ("weight", "bias"))
        values = F.linear(values.to(weight), weight, bias)
        values = F.silu(values) if layer == "linear_1" else values
    return values


register(ControlNetXSFamily())
