"""What a picture is going to be, seen in its latents without decoding them."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

_SD = ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))
"""RGB of each of the four channels, for SD1 and SD2. Source: "Decoding latents to RGB without upscaling", a
thread in Hugging Face's forum, 2022."""
_SDXL = ((60, 60, 60), (-60, -5, 10), (25, 15, -5), (-70, -50, -35))
_SDXL_GREY = (150, 140, 130)
"""The same for SDXL, in levels of 255. Source: diffusers' guide "Pipeline callbacks", latents_to_rgb."""


def of_latents(latents: Tensor, *, is_sdxl: bool) -> Image.Image:
    """The picture that the latents "4 h w" are becoming, one pixel for each cell."""
    cells = latents.detach().float().cpu()
    if is_sdxl:
        rgb = torch.einsum("chw,cr->hwr", cells, torch.tensor(_SDXL, dtype=torch.float32))
        levels = rgb + torch.tensor(_SDXL_GREY)
    else:
        levels = (torch.einsum("chw,cr->hwr", cells, torch.tensor(_SD)) + 1) / 2 * 255
    return Image.fromarray(levels.clamp(0, 255).byte().numpy())
