"""ControlNet-LLLite: small layers in front of the UNet's projections to q, k and v (kohya-ss/sd-scripts).

Each embeds the picture with convolutions of its own, once in a pass, and adds to what the projection reads
what an MLP makes of that and of the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Block, Call, Control, Role, Services, Site
from controlstack.layout import ANY, Base
from controlstack.weights import Header, read_tensors

Shapes = Mapping[str, tuple[int, ...]]
Place = tuple[Site, Role]

_LDM = re.compile(
    r"lllite_unet_(input|middle|output)_blocks?_(?:(\d+)_)?1_transformer_blocks_(\d+)_attn([12])_to_([qkv])"
)
_DIFFUSERS = re.compile(
    r"lllite_unet_(down|mid|up)_blocks?_(?:(\d+)_)?attentions_(\d+)_transformer_blocks_(\d+)_attn([12])_to_([qkv])"
)
_PARTS = {"down": "input", "mid": "middle", "up": "output"}
_PER_LEVEL = 3
"""Blocks of each level of SD1 and SDXL, in the encoder the downsampler and in the decoder one more resnet."""


class LLLiteFamily(Family):
    """Files with the names of LDM's modules, or of diffusers'."""

    name = "ControlNet-LLLite"

    def match(self, header: Header) -> Match | None:
        if not any(name.startswith("lllite_unet_") for name in header.shapes):
            return None
        modules = _modules(header.shapes)
        places = {name: place for name in modules if (place := _place(name))}
        if beyond := modules.keys() - places.keys():
            raise _unusable(header, f"It changes {sorted(beyond)[0]}, which is no projection to q, k or v")
        for name, shapes in modules.items():
            if fault := _fault(shapes):
                raise _unusable(header, f"{name} {fault}")
        # SD1 attends in its first level too, SDXL from the second one on, which is twice as wide.
        blocks = {site.block: modules[name]["down.0.weight"][1] for name, (site, _) in places.items()}
        first = next(
            (width for (part, nth), width in blocks.items() if part == "input" and nth in (1, 2)), None
        )
        if first is not None:
            base = Base(first, None, None, blocks=12)
        else:
            base = Base(min(blocks.values()) // 2, None, ANY, blocks=9)
        return Match(self, header, base, detail=places)

    def load(self, match: Match, services: Services) -> nn.Module:
        header = cast(Header, match.header)
        with torch.device("meta"):
            network = nn.ModuleDict({name: Layer(shapes) for name, shapes in _modules(header.shapes).items()})
        tensors = read_tensors(header, header.shapes, dtype=services.dtype, device=services.device)
        network.load_state_dict(tensors, assign=True)
        return network.requires_grad_(False).eval()

    def begin(self, start: Start) -> Control:
        places = cast(Mapping[str, Place], start.match.detail)
        network = cast(nn.ModuleDict, start.model)
        layers = {place: cast(Layer, network[name]) for name, place in places.items()}
        return Pass(layers, start.hint)


class Layer(nn.Module):
    """What stands in front of one projection, under kohya's names."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        convolutions: list[nn.Module] = []
        for name in sorted(name for name in shapes if re.fullmatch(r"conditioning1\.\d+\.weight", name)):
            wide, deep, side, _ = shapes[name]
            convolutions += [nn.Conv2d(deep, wide, side, stride=side), nn.ReLU()]
        self.conditioning1 = nn.Sequential(*convolutions[:-1])
        self.down, self.mid, self.up = (
            nn.Sequential(nn.Linear(deep, wide))
            for wide, deep in (shapes[f"{part}.0.weight"] for part in ("down", "mid", "up"))
        )

    @property
    def stride(self) -> int:
        """px of the picture that make one token, in each direction."""
        return prod(part.stride[0] for part in self.conditioning1 if isinstance(part, nn.Conv2d))

    def embed(self, picture: Tensor) -> Tensor:
        """A picture "1 3 H W", -1..1, as the MLP's middle layer sees it: "1 N m"."""
        tokens = self.conditioning1(picture).flatten(2).transpose(1, 2)
        middle = cast(nn.Linear, self.mid[0])
        return F.linear(tokens, middle.weight[:, : tokens.shape[2]], middle.bias)

    def change(self, h: Tensor, embedded: Tensor) -> Tensor:
        """What is added to "R N C". The middle layer reads the embedding, then h made small."""
        small = F.relu(self.down(h))
        weight = cast(nn.Linear, self.mid[0]).weight
        seen = embedded + F.linear(small, weight[:, weight.shape[1] - small.shape[2] :])
        return cast(Tensor, self.up(F.relu(seen)))


class Pass(Control):
    """One file in one sampling pass."""

    def __init__(self, layers: Mapping[Place, Layer], hint: Tensor) -> None:
        self._layers, self._embedded = layers, dict[Place, Tensor]()
        height, width = hint.shape[-2:]
        with torch.no_grad():
            for place, layer in layers.items():
                # The UNet rounds odd sizes up.
                fill = (0, -width % layer.stride, 0, -height % layer.stride)
                picture = F.pad(2 * hint - 1, fill, mode="replicate").to(next(layer.parameters()))
                self._embedded[place] = layer.embed(picture)

    def projected(self, site: Site, role: Role, h: Tensor, call: Call) -> Tensor | None:
        if (site, role) not in self._layers:
            return None
        layer, embedded = self._layers[site, role], self._embedded[site, role]
        if embedded.shape[1] != h.shape[1]:
            raise ControlError(
                "The LLLite model does not fit the attention layers",
                f"It has {embedded.shape[1]} tokens for the {h.shape[1]} that are there",
                "Switch off extensions that merge tokens, or choose a model for this checkpoint",
            )
        with torch.no_grad():
            return layer.change(h.to(embedded), embedded).to(h)


def _modules(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of each layer, by its name."""
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layer, _, tensor = name.partition(".")
        modules.setdefault(layer, {})[tensor] = shape
    return modules


def _fault(shapes: Shapes) -> str | None:
    """What is wrong with the tensors of a layer."""
    needed = {
        f"{part}.0.{kind}" for part in ("conditioning1", "down", "mid", "up") for kind in ("weight", "bias")
    }
    if missing := needed - shapes.keys():
        return f"lacks {min(missing)}"
    if any(len(shapes[f"{part}.0.weight"]) != 2 for part in ("down", "mid", "up")):
        return "is a convolution"
    if shapes["conditioning1.0.weight"][1] != 3:
        return f"reads {shapes['conditioning1.0.weight'][1]} channels instead of 3"
    return None


def _place(name: str) -> Place | None:
    """The projection that a layer stands in front of."""
    if found := _LDM.fullmatch(name):
        part, nth, transformer, attention, role = found.groups()
        block = Block(part, int(nth or 0))
    elif found := _DIFFUSERS.fullmatch(name):
        part, level, resnet, transformer, attention, role = found.groups()
        first = 1 if part == "down" else 0  # in front of the encoder's levels is the first convolution
        nth = 0 if part == "mid" else int(level) * _PER_LEVEL + int(resnet) + first
        block = Block(_PARTS[part], nth)
    else:
        return None
    return Site(block, int(transformer), cross=attention == "2"), cast(Role, role)


def _unusable(header: Header, why: str) -> ControlError:
    return ControlError(f"The LLLite model {header.path.name} cannot be used", why, "Choose another model")


register(LLLiteFamily())
