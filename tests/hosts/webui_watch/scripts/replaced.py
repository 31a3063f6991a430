"""For tests: what computes in a UNet's place by the host's own means, as TensorRT does."""

from __future__ import annotations

from typing import Any

from modules import script_callbacks, sd_unet
from torch import Tensor


class Engine(sd_unet.SdUnet):
    """Takes what it is given for the noise."""

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x


class Option(sd_unet.SdUnetOption):
    label = "Engine of the tests"

    def create_unet(self) -> Engine:
        return Engine()


script_callbacks.on_list_unets(lambda unets: unets.append(Option()))
