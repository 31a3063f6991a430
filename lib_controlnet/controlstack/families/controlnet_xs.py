"""ControlNet-XS: a small encoder that runs beside the UNet's, each hearing the other at every block (Zavadski
et al., arXiv 2312.06573).

At each block of the encoder it reads the UNet's features before the block and adds to them behind it; what it
had found there is added again where the decoder reads that skip. The authors' code is vislearn/ControlNet-XS
at 8d90ed4.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from controlstack import copied_encoder
from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Block, Call, Control, Services
from controlstack.layout import ANY, HEADS, Base, EncoderLayout, controlnet_names
from controlstack.weights import Header, read_tensors

MARK, AUTHORS_MARK = "control_to_base_for_conv_in.weight", "enc_zero_convs_in.0.0.weight"
HEARS = "down_blocks.{}.ctrl_to_base.0.weight"
ENCODER, HINT = "control_model.", "input_hint_block."
PARTS = (ENCODER, HINT, "enc_zero_convs_", "dec_zero_convs_", "middle_block_")
"""What the authors' names begin with; `scale_list` beside them is ones."""
NOT_READ = "control_model.label_emb."
"""The authors' code makes these for SDXL, and then takes the UNet's."""
STEPS, GROUPS = 3, 32
"""Blocks of the encoder in each level, the middle block counted with the last; most groups of a norm."""
TIMES = ("time_embedding", "add_embedding")
"""The UNet's embeddings of the timestep and of SDXL's vector, by diffusers' names."""


@dataclass(frozen=True)
class Reading:
    """What a file says of itself.

    names: diffusers' name -> the file's
    layout: of the small encoder
    widths: of the UNet's levels
    authors: whether the names are the authors'
    unknown: names that no such network has
    """

    names: Mapping[str, str]
    layout: EncoderLayout
    widths: tuple[int, ...]
    authors: bool
    unknown: Collection[str]

    @property
    def xl(self) -> bool:
        return len(self.widths) == 3

    def heads(self, given: str | None) -> tuple[int, ...]:
        """Attention heads per level, which leave no trace in the shapes; these are those of the authors'
        configurations."""
        if given is not None:
            heads = json.loads(given)
            return (heads,) * len(self.widths) if isinstance(heads, int) else tuple(heads)
        if self.layout.context == 768:
            return (8,) * len(self.widths)
        return tuple(max(1, width // (64 if self.xl else 8)) for width in self.layout.channels)


class ControlNetXSFamily(Family):
    """Files of diffusers' `ControlNetXSAdapter` or of the authors' `TwoStreamControlNet`, for SD1, SD2 and
    SDXL."""

    name = "ControlNet-XS"

    def match(self, header: Header) -> Match | None:
        shapes, unknown = header.shapes, set[str]()
        names = {name: name for name in shapes}
        prefix = next((n.removesuffix(AUTHORS_MARK) for n in shapes if n.endswith(AUTHORS_MARK)), None)
        if prefix is not None:
            names = _authors_names(shapes, prefix)
            own = {name for name in shapes if name.startswith(tuple(prefix + part for part in PARTS))}
            unknown = {name for name in own - {*names.values()} if not name.startswith(prefix + NOT_READ)}
        elif MARK not in shapes:
            return None
        shapes = {ours: shapes[theirs] for ours, theirs in names.items()}
        layout = EncoderLayout.read(shapes, header.metadata)
        heard = [HEARS.format(level) for level in range(len(layout.channels))]
        if not shapes.keys() >= set(heard):
            raise ControlError(
                f"The ControlNet-XS {header.path.name} cannot be used",
                "The UNet's encoder does not hear it: it is damaged, or a variant that was never published",
                "Download it again, or choose another model",
            )
        widths = tuple(shapes[name][0] for name in heard)
        reading = Reading(names, layout, widths, prefix is not None, unknown)
        base = Base(widths[0], layout.context, ANY if reading.xl else None, STEPS * len(widths))
        return Match(self, header, base, detail=reading)

    def load(self, match: Match, services: Services) -> nn.Module:
        from diffusers import ControlNetXSAdapter

        reading, header = cast(Reading, match.detail), cast(Header, match.header)
        layout, names = reading.layout, reading.names
        with torch.device("meta"):
            net: Any = ControlNetXSAdapter(
                conditioning_channels=layout.hint[0],
                conditioning_embedding_out_channels=layout.hint[1:],
                learn_time_embedding="time_embedding.linear_1.weight" in names,
                num_attention_heads=reading.heads(header.metadata.get(HEADS)),
                block_out_channels=layout.channels,
                base_block_out_channels=reading.widths,
                cross_attention_dim=layout.context,
                down_block_types=tuple(
                    "CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in layout.depth
                ),
                transformer_layers_per_block=tuple(depth or 1 for depth in layout.depth),
                max_norm_num_groups=GROUPS,
                use_linear_projection=layout.linear,
            )
        held = {ours: header.shapes[theirs] for ours, theirs in names.items()}
        copied_encoder.check(header, copied_encoder.shapes_of(net), held, reading.unknown)
        if reading.authors:
            _set_authors_norms(net.mid_block.midblock)
        tensors = read_tensors(header, names.values(), dtype=services.dtype, device=services.device)
        net.load_state_dict({ours: tensors[theirs] for ours, theirs in names.items()}, assign=True)
        return cast(nn.Module, net.requires_grad_(False).eval())

    def begin(self, start: Start) -> Control:
        return Pass(start.model, start.hint, start.services)


def _authors_names(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, str]:
    """diffusers' name -> the file's, for those with the authors' names behind a prefix."""
    # The encoder has LDM's names, as a ControlNet's; but the hint's lie outside it, and there may be no time.
    hint = {f"{prefix}{ENCODER}{n.removeprefix(prefix)}": n for n in shapes if n.startswith(prefix + HINT)}
    time = f"{prefix}{ENCODER}time_embed.0.weight"
    read = (name for name in shapes if not name.startswith(prefix + NOT_READ))
    found = controlnet_names({*read, *hint, time}, prefix + ENCODER)
    names = {_of_adapter(ours): hint.get(theirs, theirs) for ours, theirs in found.items()}
    blocks = sum(f"{prefix}enc_zero_convs_in.{nth}.0.weight" in shapes for nth in range(len(shapes)))
    for ours, theirs in _connections(blocks):
        names |= {f"{ours}.{kind}": f"{prefix}{theirs}.0.{kind}" for kind in ("weight", "bias")}
    return {ours: theirs for ours, theirs in names.items() if theirs in shapes}


def _of_adapter(name: str) -> str:
    """An adapter's name for what a `ControlNetModel` has too."""
    return name.replace(".downsamplers.0.", ".downsamplers.").replace("mid_block.", "mid_block.midblock.")


def _connections(blocks: int) -> Iterator[tuple[str, str]]:
    """diffusers' and the authors' names of the zero convolutions between two encoders of so many blocks."""
    yield "control_to_base_for_conv_in", "enc_zero_convs_out.0"
    yield "mid_block.base_to_ctrl", f"enc_zero_convs_in.{blocks - 1}"
    yield "mid_block.ctrl_to_base", "middle_block_out"
    for nth in range(blocks):
        level, step = divmod(nth, STEPS)
        yield f"up_connections.{level}.ctrl_to_base.{step}", f"dec_zero_convs_out.{nth}"
        if nth < blocks - 1:
            yield f"down_blocks.{level}.base_to_ctrl.{step}", f"enc_zero_convs_in.{nth}"
            yield f"down_blocks.{level}.ctrl_to_base.{step}", f"enc_zero_convs_out.{nth + 1}"


def _set_authors_norms(middle: Any) -> None:
    """diffusers' class has fewer groups in its middle block than the authors', and another ε."""
    for norm in (norm for resnet in middle.resnets for norm in (resnet.norm1, resnet.norm2)):
        norm.eps = 1e-5
        norm.num_groups = max(n for n in range(1, GROUPS + 1) if norm.num_channels % n == 0)


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
