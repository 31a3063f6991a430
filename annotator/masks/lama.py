"""The picture with LaMa's idea of what is behind the mask, for models that repaint it.

LaMa looks at 256 px, the size that it was trained with; what is not masked stays the picture's own. Source:
Suvorov et al., arXiv 2109.07161; fast Fourier convolutions are Chi, Jiang and Mu's, NeurIPS 2020. The layout
is that of advimman/lama's big-lama.
"""

from __future__ import annotations

from typing import TypeAlias, cast

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from controlstack.downloads import File
from controlstack.errors import ControlError
from controlstack.image import Array, to_tensor
from controlstack.networks import State, below, filled
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register

SIDE = 256
"""px of the short side."""
WEIGHTS = File("lllyasviel/Annotators", "ControlNetLama.pth", "lama", "Apache-2.0")

Pair: TypeAlias = tuple[Tensor, Tensor | None]
"""Features "B C h w" that see around them, and those that see the whole picture at once."""


def lama(image: Array, ask: Ask) -> Array:
    """ "H W 4": the picture with its masked part filled, and the mask. Raises ControlError without a mask."""
    if ask.mask is None:
        raise ControlError(
            "Inpainting needs a mask",
            "Nothing says which part of the picture to repaint",
            "Paint one on the unit's picture, or send `mask`",
        )
    small = Ask(SIDE, networks=ask.networks)
    painted = _painted(np.dstack([image, ask.mask]), small)
    painted = cv2.resize(painted, image.shape[1::-1])
    share = ask.mask[..., None].astype(np.float32) / 255
    return np.dstack([(painted * share + image * (1 - share)).round().astype(np.uint8), ask.mask])


@at_resolution
def _painted(picture: Array, ask: Ask) -> Array:
    """Of a picture "h w 4" with its mask behind the colours, what the network makes, "h w 3"."""
    network = ask.networks.get(WEIGHTS, _network)
    whole = to_tensor(picture).to(next(network.parameters()).device)
    mask = (whole[:, 3:] > 0.5).float()
    seen = whole[:, :3] * (1 - mask)
    painted = seen + mask * network(torch.cat([seen, mask], dim=1))
    return cast(Array, (painted[0] * 255).clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())


class _Fourier(nn.Module):
    """A 1x1 convolution of the spectrum, real and imaginary parts side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(2 * channels)

    def forward(self, h: Tensor) -> Tensor:
        spectrum = torch.view_as_real(torch.fft.rfft2(h, norm="ortho"))
        mixed = spectrum.permute(0, 1, 4, 2, 3).flatten(1, 2)
        mixed = self.bn(self.conv_layer(mixed)).relu().unflatten(1, (-1, 2))
        spectrum = torch.view_as_complex(mixed.permute(0, 1, 3, 4, 2).contiguous())
        return cast(Tensor, torch.fft.irfft2(spectrum, s=h.shape[-2:], norm="ortho"))


class _Spectral(nn.Module):
    """What makes global features of global ones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Sequential(nn.Conv2d(channels, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU())
        self.fu = _Fourier(half)
        self.conv2 = nn.Conv2d(half, channels, 1, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        h = self.conv1(h)
        return cast(Tensor, self.conv2(h + self.fu(h)))


class _Layer(nn.Module):
    """A fast Fourier convolution. `reads`, `makes`: how many local and how many global channels."""

    def __init__(
        self, reads: tuple[int, int], makes: tuple[int, int], side: int = 3, stride: int = 1
    ) -> None:
        super().__init__()

        def convolution(deep: int, wide: int) -> nn.Module:
            return nn.Conv2d(deep, wide, side, stride, side // 2, bias=False, padding_mode="reflect")

        ways = {"convl2l": (reads[0], makes[0]), "convl2g": (reads[0], makes[1])}
        ways["convg2l"] = (reads[1], makes[0])
        self.ffc = nn.ModuleDict({name: convolution(*way) for name, way in ways.items() if all(way)})
        if reads[1] and makes[1]:
            self.ffc["convg2g"] = _Spectral(makes[1])
        self.bn_l = nn.BatchNorm2d(makes[0])
        self.bn_g = nn.BatchNorm2d(makes[1]) if makes[1] else nn.Identity()

    def forward(self, pair: Pair) -> Pair:
        local = self.bn_l(self._sum(pair, "l")).relu()
        return local, self.bn_g(self._sum(pair, "g")).relu() if "convl2g" in self.ffc else None

    def _sum(self, pair: Pair, to: str) -> Tensor:
        ways = [(f"conv{name}2{to}", h) for name, h in zip("lg", pair, strict=True) if h is not None]
        return torch.stack([self.ffc[way](h) for way, h in ways]).sum(0)


class _Block(nn.Module):
    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        self.conv1, self.conv2 = _Layer(channels, channels), _Layer(channels, channels)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Pair:
        local, whole = self.conv2(self.conv1(pair))
        return pair[0] + local, pair[1] + whole


class _Split(nn.Module):
    """The picture is local at first."""

    def forward(self, x: Tensor) -> Pair:
        return x, None


class _Joined(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat(pair, dim=1)


class _Lama(nn.Module):
    """Numbered as the published network. first: channels at full size; local: those of its middle that stay
    local."""

    def __init__(self, first: int, local: int, blocks: int) -> None:
        super().__init__()
        widths = [first, 2 * first, 4 * first]
        middle = (local, 8 * first - local)
        layers: list[nn.Module] = [_Split(), _Layer((4, 0), (first, 0), side=7)]
        layers += [_Layer((w, 0), (2 * w, 0), stride=2) for w in widths[:2]]
        layers += [
            _Layer((widths[2], 0), middle, stride=2),
            *(_Block(middle) for _ in range(blocks)),
            _Joined(),
        ]
        for width in reversed(widths):
            grow = nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1)
            layers += [grow, nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(first, 3, 7), nn.Sigmoid()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.model(x))


def _network(state: State) -> nn.Module:
    """The generator of a state, which may hold what it was trained against too."""
    generator = {name: t for name, t in below(state, "generator.").items() if name.startswith("model.")}
    blocks = sum(name.endswith("conv1.ffc.convl2l.weight") for name in generator)
    first = len(generator["model.1.ffc.convl2l.weight"])
    return filled(_Lama(first, len(generator["model.4.ffc.convl2l.weight"]), blocks), generator)


register(
    Preprocessor(
        name="inpaint_only+lama",
        run=lama,
        label="inpaint_only+lama",
        control_types=("Inpaint",),
        resolution=None,
        accepts_mask=True,
        requires_mask=True,
        fills=True,
        companions=("keep unmasked", "inpaint checkpoint", "start from the picture"),
        network="LaMa",
        files=(WEIGHTS,),
    )
)
