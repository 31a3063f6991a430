"""CtrLoRA: one base ControlNet, and a small file of low-rank changes for each kind of hint (Xu et al., arXiv
2410.09400).

The unit names the small file; the base lies in the same folder. The base reads the hint's latents in place of
the noisy ones, and has no hint encoder. The sum is made once, when the file is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from controlstack import copied_encoder
from controlstack.copied_encoder import Network
from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Call, Control, Residuals, Services
from controlstack.layout import Base, EncoderLayout, controlnet_names
from controlstack.weights import Header, read_header, read_tensors

PREFIX = "control_model."
UP, DOWN = "lora_layer.up.weight", "lora_layer.down.weight"
FIRST = f"{PREFIX}input_blocks.0.0.weight"
ZERO = PREFIX + "zero_convs.{}.0.weight"
CONTEXT = f"attn2.to_k.{DOWN}"
ENDINGS = {".ckpt", ".pt", ".pth", ".safetensors"}
NO_HINT = {
    f"{PREFIX}input_hint_block.{layer}.{kind}": () for layer in range(0, 16, 2) for kind in ("weight", "bias")
}
"""The hint encoder that a plain ControlNet has in addition."""


@dataclass(frozen=True)
class Reading:
    """What a base says of itself: diffusers' name -> the file's."""

    names: Mapping[str, str]
    layout: EncoderLayout


class CtrLoRAFamily(Family):
    """Low-rank changes under the names of the authors' code. Their base alone is refused in words."""

    name = "CtrLoRA"

    def match(self, header: Header) -> Match | None:
        if _is_base(header.shapes):
            raise ControlError(
                f"{header.path.name} is the base ControlNet of CtrLoRA models",
                "It knows no kind of hint by itself",
                "Choose a CtrLoRA model in the same folder",
            )
        context = next((shape[1] for name, shape in header.shapes.items() if name.endswith(CONTEXT)), None)
        if ZERO.format(0) not in header.shapes or context is None or FIRST in header.shapes:
            return None
        skips = sum(ZERO.format(nth) in header.shapes for nth in range(len(header.shapes)))
        base = Base(header.shapes[ZERO.format(0)][0], context, None, skips)
        return Match(self, header, base, skips + 1)

    def load(self, match: Match, services: Services) -> nn.Module:
        header = cast(Header, match.header)
        base = _base_beside(header, match.base)
        reading = _read(base)
        net = copied_encoder.build(reading.layout)
        net.controlnet_cond_embedding = nn.Identity()
        held = {ours: base.shapes[theirs] for ours, theirs in reading.names.items()}
        copied_encoder.check(base, copied_encoder.shapes_of(net), held)
        stored = read_tensors(base, reading.names.values(), device=services.device)
        changes = read_tensors(header, header.shapes, device=services.device)
        weights = {
            ours: _changed(stored[theirs], theirs, changes).to(services.dtype)
            for ours, theirs in reading.names.items()
        }
        return Network(net, weights)

    def begin(self, start: Start) -> Control:
        # The authors give the VAE pixels from 0 to 1, where it takes -1 to 1.
        latents = start.services.encode((start.hint + 1) / 2)
        return Pass(cast(Network, start.model), latents)


class Pass(Control):
    """One network in one sampling pass, on latents "1 4 h w" of the hint."""

    def __init__(self, network: Network, latents: Tensor) -> None:
        self._network, self._latents = network, latents
        self._no_hint = torch.zeros(1, 1, 1, 1).to(next(network.parameters()))

    def residuals(self, call: Call) -> Residuals:
        seen = self._latents.to(call.x).expand_as(call.x)
        return self._network.evaluate(replace(call, x=seen), self._no_hint)


def _is_base(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """A ControlNet without a hint encoder."""
    return {FIRST, ZERO.format(0)} <= shapes.keys() and not shapes.keys() & NO_HINT.keys()


def _base_beside(header: Header, wanted: Base) -> Header:
    """The base ControlNet in the folder of a file. Raises ControlError when there is none."""
    for path in sorted(header.path.parent.iterdir(), key=lambda path: ("base" not in path.name, path)):
        if path.suffix in ENDINGS and path != header.path:
            found = read_header(path)
            if _is_base(found.shapes) and _read(found).layout.base == wanted:
                return found
    raise ControlError(
        f"The CtrLoRA model {header.path.name} has no base",
        f"It changes a ControlNet for {wanted} that is not in its folder",
        "Put ctrlora_sd15_basecn700k.ckpt of xyfJASON/ctrlora on Hugging Face into the same folder",
    )


def _read(header: Header) -> Reading:
    names = {
        ours: theirs
        for ours, theirs in controlnet_names({**header.shapes, **NO_HINT}, PREFIX).items()
        if theirs in header.shapes
    }
    shapes = {ours: header.shapes[theirs] for ours, theirs in names.items()}
    return Reading(names, replace(EncoderLayout.read(shapes, header.metadata), hint=(3, 16)))


def _changed(stored: Tensor, name: str, changes: Mapping[str, Tensor]) -> Tensor:
    """A weight of the base as the small file has it: whole, as a low-rank change, or not at all."""
    if name in changes:
        return changes[name]
    layer = name.removesuffix("weight")
    if f"{layer}{UP}" not in changes:
        return stored
    return stored.float() + changes[f"{layer}{UP}"].float() @ changes[f"{layer}{DOWN}"].float()


register(CtrLoRAFamily())
