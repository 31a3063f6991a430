"""Line art of manga and anime without screentones, hatching and other textures.

Source: C. Li, X. Liu and T.-T. Wong, Deep Extraction of Manga Structural Lines, 2017. The network is written
here after the layout of its published PyTorch weights.
"""

from __future__ import annotations

import cv2
from torch import Tensor, nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, filled, pixels
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register

WEIGHTS = File(
    repository="lllyasviel/Annotators",
    path="erika.pth",
    folder="manga_line",
    licence="MIT",
    sha256="badbd6baf013cefbd98993307b02cc14a26c770d067416e4fdecc8720b88feeb",
    size=172_789_563,
)


@at_resolution
def lineart_anime_denoise(picture: Array, ask: Ask) -> Array:
    """White lines on black."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    network = ask.networks.get(WEIGHTS, _network)
    drawing = network(pixels(grey[:, :, None], network))[0, 0]
    return hwc3((255 - drawing.float().cpu().numpy()).clip(0, 255).astype("uint8"))


def _network(state: State) -> nn.Module:
    return filled(StructuralLines(), state)


class StructuralLines(nn.Module):
    """Grey "B 1 H W", 0..255, to a drawing of the same shape and scale. Sides are multiples of 16 px."""

    def __init__(self) -> None:
        super().__init__()
        self.block0 = _shrinking(1, 24, 2, stride=1)
        self.block1 = _shrinking(24, 48, 3)
        self.block2 = _shrinking(48, 96, 5)
        self.block3 = _shrinking(96, 192, 7)
        self.block4 = _shrinking(192, 384, 12)
        self.block5 = _growing(384, 192, 7)
        self.block6 = _growing(192, 96, 5)
        self.block7 = _growing(96, 48, 3)
        self.block8 = _growing(48, 24, 2)
        self.block9 = _shrinking(24, 16, 2, stride=1)
        self.conv15 = _convolution(16, 1, size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Down through four scales and up again, each met by the features of its size."""
        features = []
        for down in (self.block0, self.block1, self.block2, self.block3):
            x = down(x)
            features.append(x)
        x = self.block4(x)
        for up in (self.block5, self.block6, self.block7, self.block8):
            x = features.pop() + up(x)
        drawing: Tensor = self.conv15(self.block9(x))
        return drawing


class _Model(nn.Module):
    """Layers in a row, called `model` in the file."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.model(x)
        return result


class _Residual(nn.Module):
    """Two convolutions beside a shortcut, at half, the same or twice the size."""

    def __init__(self, inner: int, outer: int, stride: int = 1, *, grow: bool = False) -> None:
        super().__init__()
        self.conv1 = _convolution(inner, outer, stride=stride, grow=grow)
        self.residual = _convolution(outer, outer)
        same = inner == outer and stride == 1
        self.shortcut = (
            nn.Identity() if same else _Model(nn.Conv2d(inner, outer, 1, stride), *_twice_the_size(grow))
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.shortcut(x) + self.residual(self.conv1(x))
        return result


def _convolution(inner: int, outer: int, *, size: int = 3, stride: int = 1, grow: bool = False) -> _Model:
    return _Model(
        nn.BatchNorm2d(inner, eps=1e-3),
        nn.LeakyReLU(0.2),
        nn.Conv2d(inner, outer, size, stride, size // 2),
        *_twice_the_size(grow),
    )


def _twice_the_size(grow: bool) -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2, mode="nearest")] if grow else []


def _shrinking(inner: int, outer: int, count: int, stride: int = 2) -> _Model:
    """`count` residuals, the last of which has the stride."""
    channels = [inner, *[outer] * count]
    return _Model(
        *(_Residual(channels[i], outer, stride if i == count - 1 else 1) for i in range(count)),
    )


def _growing(inner: int, outer: int, count: int) -> _Model:
    """`count` residuals, the first of which doubles the size."""
    return _Model(
        _Residual(inner, outer, grow=True),
        *(_Residual(outer, outer) for _ in range(count - 1)),
    )


register(
    Preprocessor(
        name="lineart_anime_denoise",
        run=lineart_anime_denoise,
        label="lineart_anime_denoise",
        control_types=("Lineart",),
        network="Manga line extraction",
        files=(WEIGHTS,),
    )
)
