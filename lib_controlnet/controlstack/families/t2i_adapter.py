"""T2I-Adapter: a small network that looks at the picture alone (Mou et al., arXiv 2302.08453).

Full, light and SDXL ones, with the names of TencentARC's code or of diffusers. What such a network puts out
is the same at every step, so that it runs once in a pass.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from controlstack.errors import ControlError
from controlstack.family import Family, Match, Start, register
from controlstack.joints import Call, Control, Residuals, Services
from controlstack.layout import ANY, Base
from controlstack.weights import Header, read_tensors

Shapes = Mapping[str, tuple[int, ...]]

STAGES = 4
"""Each puts out a feature: of SD1 one for each level, of SDXL three for the levels and one for the middle."""


@dataclass(frozen=True)
class Reading:
    """What a file says of itself.

    names: TencentARC's name -> the file's
    resnets: how many in each stage
    light: whether a stage works in fewer channels than it puts out
    unshuffle: side in px of the squares that become channels: SD1's latent cells, or those of SDXL's second
        level
    colours: channels of the hint, 3 or 1
    """

    names: Mapping[str, str]
    resnets: int
    light: bool
    unshuffle: int
    colours: int

    @property
    def xl(self) -> bool:
        """SDXL's features have the sizes of its second, second, third and third level."""
        return self.unshuffle == 16

    @property
    def halving(self) -> tuple[int, ...]:
        """The stages that halve the size."""
        return (2,) if self.xl else (1, 2, 3)


class T2IAdapterFamily(Family):
    """Files with the original names, behind `adapter.` or not, or with diffusers'."""

    name = "T2I-Adapter"

    def match(self, header: Header) -> Match | None:
        names = _names(header.shapes)
        shapes = {ours: header.shapes[theirs] for ours, theirs in names.items()}
        light = {"body.0.in_conv.weight", "body.0.body.0.block1.weight"} <= shapes.keys()
        if not light and not {"conv_in.weight", "body.0.block1.weight"} <= shapes.keys():
            return None
        resnet = r"body\.\d+\.body\.\d+\.block1\.weight" if light else r"body\.\d+\.block1\.weight"
        resnets, odd = divmod(sum(bool(re.fullmatch(resnet, name)) for name in shapes), STAGES)
        channels = shapes["body.0.in_conv.weight" if light else "conv_in.weight"][1]
        hints = [(side, n) for side in (8, 16) for n in (1, 3) if channels == n * side**2]
        if odd or not hints:
            raise _unusable(header, f"it has {STAGES * resnets + odd} resnets and reads {channels} channels")
        reading = Reading(names, resnets, light, *hints[0])
        width = shapes["body.0.out_conv.weight" if light else "conv_in.weight"][0]
        # SD1 and SD2 are the same to it: it sees no prompt.
        base = Base(width, None, ANY, blocks=9) if reading.xl else Base(width, None, None, blocks=12)
        return Match(self, header, base, layers=STAGES, detail=reading)

    def load(self, match: Match, services: Services) -> nn.Module:
        reading, header = cast(Reading, match.detail), cast(Header, match.header)
        shapes = {ours: header.shapes[theirs] for ours, theirs in reading.names.items()}
        with torch.device("meta"):
            network = Network(reading, shapes)
        tensors = read_tensors(header, reading.names.values(), dtype=services.dtype, device=services.device)
        try:
            network.load_state_dict(
                {ours: tensors[theirs] for ours, theirs in reading.names.items()}, assign=True
            )
        except RuntimeError as error:
            raise _unusable(header, " ".join(str(error).split()[6:24])) from error
        return network.requires_grad_(False).eval()

    def begin(self, start: Start) -> Control:
        return Pass(cast(Network, start.model), start.hint)


class Network(nn.Module):
    """Four stages under TencentARC's names. The shapes tell which parts there are, and how wide."""

    def __init__(self, reading: Reading, shapes: Shapes) -> None:
        super().__init__()
        self.reading = reading
        self.conv_in = _convolution(shapes, "conv_in")
        blocks = 1 if reading.light else reading.resnets
        self.body = nn.ModuleList(
            (_LightStage if reading.light else _Resnet)(
                _below(shapes, f"body.{stage * blocks + nth}."), halves=stage in reading.halving and nth == 0
            )
            for stage in range(STAGES)
            for nth in range(blocks)
        )

    def forward(self, hint: Tensor) -> list[Tensor]:
        """The features "1 C h w" of a hint "1 3 H W", H and W px."""
        side = self.reading.unshuffle
        height, width = hint.shape[-2:]
        # The UNet rounds odd sizes up.
        hint = F.pad(hint, (0, -width % side, 0, -height % side), mode="replicate")
        h = self.conv_in(F.pixel_unshuffle(hint[:, : self.reading.colours], side))
        features = []
        for block in self.body:
            h = block(h)
            features.append(h)
        return features[len(features) // STAGES - 1 :: len(features) // STAGES]


class _Resnet(nn.Module):
    def __init__(self, shapes: Shapes, *, halves: bool = False) -> None:
        super().__init__()
        self.down_opt = _Halving(shapes) if halves else nn.Identity()
        self.in_conv = _convolution(shapes, "in_conv")
        self.block1 = _convolution(shapes, "block1")
        self.block2 = _convolution(shapes, "block2")
        self.skep = _convolution(shapes, "skep")

    def forward(self, h: Tensor) -> Tensor:
        h = self.in_conv(self.down_opt(h))
        return cast(Tensor, self.block2(F.relu(self.block1(h))) + self.skep(h))


class _LightStage(nn.Module):
    def __init__(self, shapes: Shapes, *, halves: bool) -> None:
        super().__init__()
        self.down_opt = _Halving(shapes) if halves else nn.Identity()
        self.in_conv = _convolution(shapes, "in_conv")
        resnets = sum(name.endswith("block1.weight") for name in shapes)
        self.body = nn.Sequential(*(_Resnet(_below(shapes, f"body.{i}.")) for i in range(resnets)))
        self.out_conv = _convolution(shapes, "out_conv")

    def forward(self, h: Tensor) -> Tensor:
        return cast(Tensor, self.out_conv(self.body(self.in_conv(self.down_opt(h)))))


class _Halving(nn.Module):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        trained = "down_opt.op.weight" in shapes
        self.op = _convolution(shapes, "down_opt.op", 2) if trained else nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, h: Tensor) -> Tensor:
        return cast(Tensor, self.op(h))


class Pass(Control):
    """One adapter in one sampling pass."""

    def __init__(self, network: Network, hint: Tensor) -> None:
        with torch.no_grad():
            *features, last = network(hint.to(next(network.parameters())))
        self._middle: Tensor | None = last if network.reading.xl else None
        features += [] if network.reading.xl else [last]
        # The end of each level, as LDM counts blocks; of SDXL the first level's downsampler, whose output is
        # where the second level starts.
        self._features: Mapping[int, Tensor] = dict(zip(_places(network.reading), features, strict=True))

    def residuals(self, call: Call) -> Residuals:
        def spread(feature: Tensor) -> Tensor:
            return feature.to(call.x).expand(len(call.rows), -1, -1, -1)

        middle = None if self._middle is None else spread(self._middle)
        return Residuals((), middle, {block: spread(feature) for block, feature in self._features.items()})


def _places(reading: Reading) -> tuple[int, ...]:
    return (3, 5, 8) if reading.xl else (2, 5, 8, 11)


def _convolution(shapes: Shapes, name: str, stride: int = 1) -> nn.Module:
    """The convolution of this name, or nothing where the file has none."""
    if f"{name}.weight" not in shapes:
        return nn.Identity()
    wide, deep, side, _ = shapes[f"{name}.weight"]
    return nn.Conv2d(deep, wide, side, stride, side // 2)


def _below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _names(shapes: Shapes) -> dict[str, str]:
    """TencentARC's name -> the file's, where the file has such names at all."""
    bare = {name.removeprefix("adapter."): name for name in shapes}
    if "body.0.resnets.0.block1.weight" not in bare:
        return bare
    light = "body.0.out_conv.weight" in bare
    resnets = sum(name.startswith("body.0.resnets.") and name.endswith(".block1.weight") for name in bare)

    def original(name: str) -> str:
        stage, nth = re.match(r"body\.(\d+)\.(?:resnets\.(\d+))?", name).groups()  # type: ignore[union-attr]
        if light:
            return name.replace(".resnets.", ".body.")
        return re.sub(r"body\.\d+(\.resnets\.\d+)?", f"body.{int(stage) * resnets + int(nth or 0)}", name)

    return {original(name) if name.startswith("body.") else name: held for name, held in bare.items()}


def _unusable(header: Header, fault: str) -> ControlError:
    return ControlError(
        f"The T2I-Adapter {header.path.name} cannot be used",
        f"It is damaged or a variant that this extension does not know: {fault}",
        "Download it again, or choose another model",
    )


register(T2IAdapterFamily())
