"""A hand as a mesh of triangles, from a picture of it: Mesh Graphormer, which starts from MANO's mesh.

Sources: K. Lin and others, Mesh Graphormer, arXiv 2104.00272, whose encoder of pictures is HRNet-W64; J.
Romero and others, Embodied Hands: Modeling and Capturing Hands and Bodies Together, 2017, for the mesh and
how it is posed. Lengths are metres; x goes right, y down and z away from the camera.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from controlstack.errors import ControlError
from controlstack.networks import State
from controlstack.packages import bring

SIDE = 224
"""px of a side of the picture that the network sees."""
JOINTS, COARSE, CELLS = 21, 195, 49
"""Tokens: the hand's joints, the vertices of a coarser mesh, and the cells of the encoded picture."""
_WIDTHS = ((2051, 1024, 512), (512, 256, 128), (128, 64, 3))
"""Of the three encoders: what a token is read as, computed as and left as."""
_TIPS = [745, 317, 444, 556, 673]
"""Vertices at the ends of thumb, index, middle, ring and little finger."""
_BY_FINGER = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
"""MANO's joints and the tips, from the wrist through one finger after the other, the thumb first."""

_NAMES = {
    ".bert.encoder.layer.": ".layers.",
    ".bert.": ".",
    ".attention.self.": ".",
    ".attention.output.": ".attended.",
    ".intermediate.dense.": ".widened.",
}
"""Of parts of the published network, and ours."""


@dataclass(frozen=True)
class Mesh:
    """MANO's right hand in its mean pose, the wrist at 0.

    start: "216 3", the joints and the vertices of the coarser mesh
    faces: "1538 3", the vertices at the corners of each triangle, seen from outside against the clock
    near: "195 195", what each vertex of the coarser mesh takes of itself and its neighbours; rows add up to 1
    """

    start: Tensor
    faces: NDArray[np.int64]
    near: Tensor

    @classmethod
    def read(cls, folder: Path) -> Mesh:
        """Of `MANO_RIGHT.pkl` and `mano_downsampling.npz`.

        Both are pickles: reading them runs what they say, as importing the package does in which they lie.
        Raises ControlError if one is not there.
        """
        files = folder / "MANO_RIGHT.pkl", folder / "mano_downsampling.npz"
        if absent := next((file for file in files if not file.is_file()), None):
            raise ControlError(
                f"The shape of a hand, {absent.name}, is not here",
                f"It belongs into {absent.parent}",
                "Install the package mesh_graphormer again",
            )
        with files[0].open("rb") as file:
            mano = pickle.load(file, encoding="latin1")  # noqa: S301, see above
        levels = np.load(files[1], allow_pickle=True, encoding="latin1")
        joints, vertices = _posed(mano)
        start = np.concatenate([joints, levels["D"][0] @ vertices]) - joints[0]
        touching = (levels["A"][1].toarray() != 0) | np.eye(COARSE, dtype=bool)
        return cls(
            torch.from_numpy(start).float(),
            np.asarray(mano["f"], np.int64),
            torch.from_numpy(touching / touching.sum(axis=1, keepdims=True)).float(),
        )


def _posed(mano: dict[str, NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Joints "21 3" and vertices "778 3" of the mean pose, by linear blend skinning."""
    turns = np.stack([np.eye(3), *(cv2.Rodrigues(axis)[0] for axis in mano["hands_mean"].reshape(-1, 3))])
    bent = np.asarray(mano["posedirs"]) @ (turns[1:] - np.eye(3)).ravel()
    rest = mano["J_regressor"] @ mano["v_template"]
    places = [rest[0]]
    for joint, parent in enumerate(mano["kintree_table"][0][1:], 1):
        places.append(turns[parent] @ (rest[joint] - rest[parent]) + places[parent])
        turns[joint] = turns[parent] @ turns[joint]
    shifts = np.stack(places) - np.einsum("jab,jb->ja", turns, rest)
    weights = mano["weights"]
    turned = np.einsum("vj,jab,vb->va", weights, turns, mano["v_template"] + bent)
    vertices = turned + weights @ shifts
    return np.concatenate([places, vertices[_TIPS]])[_BY_FINGER], vertices


class _Added(nn.Module):
    """A linear map, added to what it goes round and normalised."""

    def __init__(self, reads: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(reads, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, around: Tensor) -> Tensor:
        return cast(Tensor, self.LayerNorm(self.dense(x) + around))


class _OnGraph(nn.Module):
    """A linear map of each of the vertices "1 N C"."""

    def __init__(self, reads: int, makes: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(makes, reads))
        self.b = nn.Parameter(torch.empty(makes))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.W, self.b)


class _Neighbours(nn.Module):
    """A graph convolution, arXiv 1609.02907: each vertex gets the mean of those around, mapped."""

    near: Tensor

    def __init__(self, width: int, near: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width))
        self.bias = nn.Parameter(torch.empty(width))
        self.register_buffer("near", near, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.near @ (x @ self.weight) + self.bias


class _GraphBlock(nn.Module):
    """A residual block on the vertices."""

    def __init__(self, width: int, near: Tensor) -> None:
        super().__init__()
        half = width // 2
        self.pre_norm, self.norm1, self.norm2 = (nn.LayerNorm(w, eps=1e-12) for w in (width, half, half))
        self.lin1, self.lin2 = _OnGraph(width, half), _OnGraph(half, width)
        self.conv = _Neighbours(half, near)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.lin1(self.pre_norm(x).relu())).relu()
        return x + cast(Tensor, self.lin2(self.norm2(self.conv(y)).relu()))


class _Layer(nn.Module):
    """A layer of BERT, arXiv 1810.04805; with `near`, the vertices go through a graph convolution in it."""

    def __init__(self, width: int, near: Tensor | None) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attended = _Added(width, width)
        self.graph_conv = None if near is None else _GraphBlock(width, near)
        self.widened = nn.Linear(width, 2 * width)
        self.output = _Added(2 * width, width)

    def forward(self, x: Tensor, heads: int = 4) -> Tensor:
        read = (
            part(x).unflatten(-1, (heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        x = self.attended(functional.scaled_dot_product_attention(*read).transpose(1, 2).flatten(2), x)
        if self.graph_conv is not None:
            joints, vertices, cells = torch.split(x, [JOINTS, COARSE, CELLS], dim=1)
            x = torch.cat([joints, self.graph_conv(vertices), cells], dim=1)
        return cast(Tensor, self.output(functional.gelu(self.widened(x)), x))


class _Encoder(nn.Module):
    """Four layers between what a token is read as and what it is left as."""

    def __init__(self, reads: int, width: int, makes: int, near: Tensor | None) -> None:
        super().__init__()
        self.img_embedding = nn.Linear(reads, width)
        self.position_embeddings = nn.Embedding(512, width)
        self.layers = nn.Sequential(*(_Layer(width, near) for _ in range(4)))
        self.cls_head, self.residual = nn.Linear(width, makes), nn.Linear(reads, makes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.img_embedding(x) + self.position_embeddings.weight[: x.shape[1]]
        return cast(Tensor, self.cls_head(self.layers(h)) + self.residual(x))


class HandMesh(nn.Module):
    """Mesh Graphormer; `faces` are the triangles between the vertices that it makes."""

    start: Tensor

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()
        self.faces = mesh.faces
        self.register_buffer("start", mesh.start, persistent=False)
        # its weights are replaced at once: none are drawn
        with torch.device("meta"):
            self.backbone = bring("timm.models.hrnet").hrnet_w64(pretrained=False, num_classes=0)
        graphs = (None, None, mesh.near)
        self.trans_encoder = nn.Sequential(
            *(_Encoder(*widths, near) for widths, near in zip(_WIDTHS, graphs, strict=True))
        )
        self.upsampling = nn.Linear(COARSE, 778)
        self.cam_param_fc = nn.Linear(3, 1)
        self.cam_param_fc2 = nn.Linear(COARSE + JOINTS, 150)
        self.cam_param_fc3 = nn.Linear(150, 3)
        self.grid_feat_dim = nn.Linear(1024, 2051)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Of a right hand "1 3 224 224", ImageNet's mean at 0: the camera "3" and the vertices "778 3".

        camera: how large the hand is in the picture, and its shift to the right and down
        """
        cells = self._encoded(picture)
        known = self.backbone.final_layer(cells).mean((2, 3))
        asked = torch.cat([self.start, known.expand(len(self.start), -1)], dim=1)[None]
        tokens = torch.cat([asked, self.grid_feat_dim(cells.flatten(2).transpose(1, 2))], dim=1)
        found = self.trans_encoder(tokens)[:, :-CELLS]
        camera = self.cam_param_fc3(self.cam_param_fc2(self.cam_param_fc(found).squeeze(-1)))
        return camera[0], self.upsampling(found[0, JOINTS:].T).T

    def _encoded(self, picture: Tensor) -> Tensor:
        """ "1 1024 7 7": all scales of HRNet brought to the coarsest, before its last layer."""
        net = self.backbone
        scales = net.stages(net.act2(net.bn2(net.conv2(net.act1(net.bn1(net.conv1(picture)))))))
        found = net.incre_modules[0](scales[0])
        for grow, shrink, scale in zip(net.incre_modules[1:], net.downsamp_modules, scales[1:], strict=True):
            found = grow(scale) + shrink(found)
        return cast(Tensor, found)


def network(state: State, mesh: Mesh) -> HandMesh:
    """The network of a published file, which also has tensors that nothing is computed with.

    Raises KeyError or RuntimeError if one that is needed is absent or of another shape.
    """
    made, named = HandMesh(mesh), {_own(name): tensor for name, tensor in state.items()}
    made.load_state_dict({name: named[name] for name in made.state_dict()}, assign=True)
    return made


def _own(name: str) -> str:
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name
