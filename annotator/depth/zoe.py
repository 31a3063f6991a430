"""Depth by ZoeDepth, trained for rooms; near is bright.

Source: S. F. Bhat and others, ZoeDepth: Zero-shot Transfer by Combining Relative and Metric Depth, 2023. Its
estimate is the mean over the picture and its mirror image, at 384x512 px.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
from torch import nn

from controlstack.downloads import File
from controlstack.image import Array, hwc3
from controlstack.networks import State, below, pixels
from controlstack.packages import controlnet_aux
from controlstack.preprocess import Ask, Preprocessor, at_resolution, register
from controlstack.strokes import levels

WEIGHTS = File(
    repository="lllyasviel/Annotators",
    path="ZoeD_M12_N.pt",
    folder="zoedepth",
    licence="MIT",
    sha256="c97f94c4d53c5b788af46c5da0462262aebb37ea116fd70014bcbba93146c33b",
    size=1_443_406_099,
)


@at_resolution
def depth_zoe(picture: Array, ask: Ask) -> Array:
    """Depth between its 2nd and 85th percentile, over the whole range of grey."""
    network = ask.networks.get(WEIGHTS, _network)
    depth = network.infer(pixels(picture, network) / 255)[0, 0].float().cpu().numpy()  # type: ignore[operator]
    near, far = np.percentile(depth, 2), np.percentile(depth, 85)
    depth -= near
    depth /= max(far - near, np.finfo(np.float32).tiny)
    return hwc3(levels(1 - depth))


def _network(state: State) -> nn.Module:
    model = controlnet_aux("zoe.zoedepth.models.zoedepth.zoedepth_v1").ZoeDepth
    config = controlnet_aux("zoe.zoedepth.utils.config").get_config("zoedepth", "infer")
    with redirect_stdout(StringIO()):
        network: nn.Module = model.build_from_config(config)
    names = network.state_dict().keys()
    # Newer versions of timm compute these; the network's own load_state_dict would ignore any other gap too.
    needed = {
        name: tensor
        for name, tensor in below(state, "model.").items()
        if name in names or not name.endswith("relative_position_index")
    }
    nn.Module.load_state_dict(network, needed)
    return network


register(
    Preprocessor(
        name="depth_zoe",
        run=depth_zoe,
        label="depth_zoe",
        control_types=("Depth",),
        network="ZoeDepth N",
        files=(WEIGHTS,),
        packages=("controlnet_aux", "timm", "torchvision"),
    )
)
