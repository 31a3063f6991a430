"""Surface normals by DSINE, which knows where in the camera's view each pixel lies.

A first guess at an eighth of the size is refined: each cell turns the normals of the 25 cells around it,
about axes that lie in their surfaces, and mixes them. Source: G. Bae and A. J. Davison, Rethinking Inductive
Biases for Surface Normal Estimation, 2024; what encodes the picture is the network of normal_bae.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from math import pi, radians, tan
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from controlstack.downloads import File
from controlstack.geometry import padded
from controlstack.image import Array, hwc3
from controlstack.networks import State, below, filled, imagenet
from controlstack.packages import controlnet_aux
from controlstack.preprocess import Ask, Preprocessor, Slider, register
from controlstack.strokes import levels

WEIGHTS = File(
    repository="bdsqlsz/qinglong_controlnet-lllite",
    path="Annotators/dsine.pt",
    folder="normal_dsine",
    licence="Imperial College's, non-commercial",
    placed_by_user=True,
)
CELL = 8
"""px of a side of what is refined."""
AROUND = 5
"""Cells of a side of what a cell is refined from."""
WIDEST = 179.0
"""Degrees: a camera that sees a plane through a hole sees less than half of all directions."""


@torch.no_grad()
def dsine(image: Array, ask: Ask) -> Array:
    """Normals, 127 where a part is 0. `ask.a`: degrees that the longer side spans; `ask.b`: refinements."""
    network = ask.networks.get(WEIGHTS, _network)
    picture, crop = padded(image, ask.resolution)
    height, width = (side.stop for side in crop)
    focal = max(height, width) / 2 / tan(radians(min(max(ask.a, 1.0), WIDEST)) / 2)
    normals = network(imagenet(picture, network), focal, (width / 2, height / 2), int(ask.b))[0]
    spread = ((normals + 1) * 0.5).clip(0, 1).permute(1, 2, 0)[crop]
    return hwc3(levels(spread.float().cpu().numpy()))


class _Standardised(nn.Conv2d):
    """A convolution whose weights have mean 0 and spread 1 in each of what it makes (arXiv 1903.10520)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        spread = weight.flatten(1).std(dim=1)[:, None, None, None] + 1e-5
        return cast(Tensor, self._conv_forward(x, weight / spread, self.bias))


class _Up(nn.Module):
    """Features brought to the size of finer ones, and mixed with them."""

    def __init__(self, reads: int, makes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (reads, makes):
            layers += [_Standardised(width, makes, 3, padding=1), nn.GroupNorm(8, makes), nn.LeakyReLU()]
        self._net = nn.Sequential(*layers)

    def forward(self, coarse: Tensor, *fine: Tensor) -> Tensor:
        grown = functional.interpolate(coarse, fine[0].shape[-2:], mode="bilinear", align_corners=False)
        return cast(Tensor, self._net(torch.cat([grown, *fine], dim=1)))


class _Decoder(nn.Module):
    """First normals, what is known of the cells, and the memory that refinement starts with.

    deep: channels of the encoder's last features; reads: of those at a sixteenth and an eighth of the size
    """

    def __init__(self, deep: int, reads: tuple[int, int], makes: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(deep + 2, deep, 1)
        self.up1 = _Up(deep + reads[0] + 2, deep // 2)
        self.up2 = _Up(deep // 2 + reads[1] + 2, deep // 4)
        self.normal_head, self.feature_head, self.hidden_head = (
            _head(deep // 4 + 2, 128, width) for width in makes
        )

    def forward(self, features: list[Tensor], rays: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        h = self.conv2(torch.cat([features[0], rays[0]], dim=1))
        h = self.up1(h, features[1], rays[1])
        h = torch.cat([self.up2(h, features[2], rays[2]), rays[2]], dim=1)
        return functional.normalize(self.normal_head(h), dim=1), self.feature_head(h), self.hidden_head(h)


class _Memory(nn.Module):
    """A convolutional gated recurrent unit."""

    def __init__(self, memory: int, reads: int) -> None:
        super().__init__()
        self.convz, self.convr, self.convq = (
            nn.Conv2d(memory + reads, memory, AROUND, padding=AROUND // 2) for _ in range(3)
        )

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        both = torch.cat([h, x], dim=1)
        update, reset = self.convz(both).sigmoid(), self.convr(both).sigmoid()
        new = self.convq(torch.cat([reset * h, x], dim=1)).tanh()
        return torch.lerp(h, new, update)


class _Dsine(nn.Module):
    """Named as the published network. The encoder makes `deep`, 176 and 64 channels of its last scales."""

    def __init__(self, encoder: nn.Module, deep: int, known: int, memory: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = _Decoder(deep, (176, 64), (3, known, memory))
        self.gru = _Memory(memory, known + 2)
        cells = AROUND**2
        self.prob_head, self.xy_head, self.angle_head, self.up_prob_head = (
            _head(memory + 2, 64, width) for width in (cells, 2 * cells, cells, 9 * CELL**2)
        )

    def forward(self, x: Tensor, focal: float, centre: tuple[float, float], rounds: int) -> Tensor:
        """Unit normals "B 3 H W" of a picture whose sides are multiples of 32.

        focal: px; centre: px from the left and the top, where the camera points
        """
        rays = [_rays(x, step, focal, centre) for step in (32, 16, CELL)]
        # the encoder lists what each of its layers makes, the picture itself first
        every = self.encoder(x)
        normals, known, memory = self.decoder([every[11], every[8], every[6]], rays)
        flat = rays[-1]
        toward = functional.normalize(torch.cat([flat, torch.ones_like(flat[:, :1])], dim=1), dim=1)
        normals, known = _facing(normals, toward), torch.cat([known, flat], dim=1)
        for _ in range(rounds):
            memory = self.gru(memory, known)
            normals = self._refined(normals, torch.cat([memory, flat], dim=1), toward, flat, CELL / focal)
        return _grown(normals, self.up_prob_head(torch.cat([memory, flat], dim=1)))

    def _refined(self, normals: Tensor, memory: Tensor, toward: Tensor, flat: Tensor, step: float) -> Tensor:
        """Normals mixed of those around each, turned. step: a cell's side at distance 1"""
        near = _around(normals, AROUND)
        # the direction in the picture, "B 2 cells h w", lifted into the plane that the normal stands on
        way = functional.normalize(self.xy_head(memory).unflatten(1, (2, -1)), dim=1) * step
        slanted = _around(flat, AROUND) + way
        rise = (near[:, :2] * slanted).sum(1) + near[:, 2]
        rise = torch.where(rise.abs() < 1e-8, torch.copysign(torch.full_like(rise, 1e-8), rise), rise)
        deeper = (-(near[:, :2] * way).sum(1) / rise)[:, None]
        axis = functional.normalize(torch.cat([way + deeper * slanted, deeper], dim=1), dim=1)
        angle = pi * self.angle_head(memory).sigmoid()[:, None]
        # Rodrigues' formula for an axis at right angles to what turns
        turned = near * angle.cos() + torch.linalg.cross(axis, near, dim=1) * angle.sin()
        seen = _facing(functional.normalize(turned, dim=1), toward[:, :, None])
        return functional.normalize((self.prob_head(memory).sigmoid()[:, None] * seen).sum(2), dim=1)


def _head(reads: int, hidden: int, makes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(reads, hidden, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 1),
        nn.ReLU(),
        nn.Conv2d(hidden, makes, 1),
    )


def _rays(x: Tensor, step: int, focal: float, centre: tuple[float, float]) -> Tensor:
    """Where the middles of cells of `step` px lie on a plane at distance 1: right and down, "B 2 h w"."""
    down, right = (
        (torch.arange(side // step, device=x.device, dtype=x.dtype) + 0.5) * step for side in x.shape[-2:]
    )
    rays = torch.stack(torch.meshgrid(right - centre[0], down - centre[1], indexing="xy")) / focal
    return rays.expand(len(x), -1, -1, -1)


def _around(x: Tensor, side: int) -> Tensor:
    """What lies around each cell, "B C side² h w"; the border's cells repeat."""
    bordered = functional.pad(x, [side // 2] * 4, mode="replicate")
    return functional.unfold(bordered, side).reshape(*x.shape[:2], side**2, *x.shape[-2:])


def _facing(normals: Tensor, toward: Tensor, least: float = 1e-2) -> Tensor:
    """Normals turned, where needed, until their part along the ray is `least`: what is seen faces the eye."""
    along = torch.cosine_similarity(normals, toward, dim=1)[:, None]
    return functional.normalize(normals + toward * (along.clamp(min=least) - along), dim=1)


def _grown(normals: Tensor, shares: Tensor) -> Tensor:
    """Normals at full size: each pixel mixes the nine cells around its own (RAFT, arXiv 2003.12039)."""
    shares = shares.reshape(-1, 9, CELL, CELL, *shares.shape[-2:]).softmax(1)
    grown = torch.einsum("bcnhw,bnyxhw->bchywx", _around(normals, 3), shares)
    return functional.normalize(grown.flatten(4, 5).flatten(2, 3), dim=1)


def _network(state: State) -> nn.Module:
    """The network, whose decoder's sizes the file tells."""
    state = below(state, "model.")
    with redirect_stdout(StringIO()):
        encoder = controlnet_aux("normalbae.nets.submodules.encoder").Encoder()
    widths = (len(state[f"decoder.{name}.bias"]) for name in ("conv2", "feature_head.4", "hidden_head.4"))
    return filled(_Dsine(encoder, *widths), state)


register(
    Preprocessor(
        name="normal_dsine",
        run=dsine,
        label="normal_dsine",
        control_types=("NormalMap",),
        a=Slider("Fov", 0, 360, 0.1, 60),
        b=Slider("Iterations", 1, 20, 1, 5),
        network="DSINE, EfficientNet-B5",
        files=(WEIGHTS,),
        packages=("controlnet_aux",),
    )
)
