"""Surface normals: x, y and z as red, green and blue, for interiors and people.

Source: G. Bae and others, Estimating and Exploiting the Aleatoric Uncertainty in Surface Normal Estimation,
2021, trained on ScanNet.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from types import SimpleNamespace

from torch import nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, below, filled, imagenet
from controlstack.packages import controlnet_aux
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register
from controlstack.strokes import levels

WEIGHTS = File(
    repository="lllyasviel/Annotators",
    path="scannet.pt",
    folder="normal_bae",
    licence="MIT",
    sha256="03dbf1600c51ee3d45c29f77b77bf1a3b7a24c3452dba62a4ae658f37330c209",
)


@at_resolution
def normal_bae(picture: Array, ask: Ask) -> Array:
    """Normals, 127 where a part is 0."""
    network = ask.networks.get(WEIGHTS, _network)
    normals = network(imagenet(picture, network))[0][-1][0, :3]
    spread = ((normals + 1) * 0.5).clip(0, 1).permute(1, 2, 0)
    return hwc3(levels(spread.float().cpu().numpy()))


def _network(state: State) -> nn.Module:
    options = SimpleNamespace(
        mode="client", architecture="BN", pretrained="scannet", sampling_ratio=0.4, importance_ratio=0.7
    )
    with redirect_stdout(StringIO()):
        network = controlnet_aux("normalbae.nets.NNET").NNET(options)
    return filled(network, below(state, "model."))


register(
    Preprocessor(
        name="normal_bae",
        run=normal_bae,
        label="normal_bae",
        control_types=("NormalMap",),
        priority=100,
        network="NNET, EfficientNet-B5",
        files=(WEIGHTS,),
        packages=("controlnet_aux",),
    )
)
