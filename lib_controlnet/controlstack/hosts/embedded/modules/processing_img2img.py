"""Pictures from a picture, and inpainting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from modules import images, masking, rng, scripts
from modules.processing_base import StableDiffusionProcessing, opt_f
from PIL import Image, ImageOps
from torch import Tensor

from controlstack.hosts.embedded import latents, pipeline

LATENT_UPSCALE = 3
"""The resize mode that enlarges latents instead of the picture."""
FILL, ORIGINAL, LATENT_NOISE, LATENT_NOTHING = range(4)
"""What `inpainting_fill` starts the masked area from."""


@dataclass(repr=False)
class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    """With a mask only that area is painted; `inpaint_full_res` enlarges it to the job's size meanwhile."""

    init_images: list[Image.Image] | None = None
    resize_mode: int = 0
    denoising_strength: float | None = 0.75
    mask: Image.Image | None = None
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    mask_blur: int | None = None
    mask_round: bool = True
    inpainting_fill: int = FILL
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: int = 0

    image_mask: Image.Image | None = field(default=None, init=False)
    init_latent: Any = field(default=None, init=False)
    nmask: Tensor | None = field(default=None, init=False)
    masked_init: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.image_mask, self.mask = self.mask, None
        if self.mask_blur is not None:
            self.mask_blur_x = self.mask_blur_y = self.mask_blur

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        self.extra_generation_params["Denoising strength"] = self.denoising_strength
        originals = [images.flatten(picture) for picture in self.init_images or []]
        self._check_count(len(originals))
        mask = self._prepared_mask()
        pictures = [self._fitted(picture, mask) for picture in originals]
        if mask is not None:
            mask = self._fitted_mask(mask)
            if self.inpainting_fill != ORIGINAL:
                pictures = [masking.fill(picture, mask) for picture in pictures]
        self.init_latent = self._batch(self._encoded(pictures))
        if mask is not None:
            self._mask_latents(mask, pictures, all_seeds)

    def sample(self) -> Tensor:
        steps, strength = pipeline.img2img_steps(self.steps, self.denoising_strength or 0.0)
        start = self.start(
            self.c,
            init=self.init_latent,
            steps=steps,
            strength=strength,
            mask=self.nmask,
            masked_init=self.masked_init,
        )
        samples = self.run_pass(start, str(self.sampler_name))
        return samples if self.nmask is None else self._blended(samples, self.nmask, self.init_latent)

    def _check_count(self, count: int) -> None:
        if not 1 <= count <= max(self.batch_size, 1):
            raise ValueError(f"bad number of images passed: {count}; expecting {self.batch_size} or less")
        if count > 1:
            self.batch_size: int = count

    def _prepared_mask(self) -> Image.Image | None:
        """The mask as it will be used, at its own size. Decides where an only-masked job pastes."""
        if self.image_mask is None:
            return None
        mask = masking.prepare(
            self.image_mask, self.mask_blur_x, self.mask_blur_y, invert=bool(self.inpainting_mask_invert)
        )
        told = self.extra_generation_params
        if self.inpainting_mask_invert:
            told["Mask mode"] = "Inpaint not masked"
        if self.mask_blur:
            told["Mask blur"] = self.mask_blur
        if self.inpainting_fill in (LATENT_NOISE, LATENT_NOTHING):
            told["Masked content"] = (
                "latent noise" if self.inpainting_fill == LATENT_NOISE else "latent nothing"
            )
        if not self.inpaint_full_res:
            return mask
        region = masking.get_crop_region(mask, self.inpaint_full_res_padding)
        if region is None:
            self.comment("The mask is empty, so the whole picture was painted.")
            return None
        left, top, right, bottom = masking.expand_crop_region(region, self.width, self.height, *mask.size)
        self.paste_to = (left, top, right - left, bottom - top)
        told["Inpaint area"] = "Only masked"
        told["Masked area padding"] = self.inpaint_full_res_padding
        return mask

    def _fitted(self, picture: Image.Image, mask: Image.Image | None) -> Image.Image:
        """The picture to encode. With a mask it also becomes an overlay, opaque where it is kept."""
        if mask is None and self.resize_mode == LATENT_UPSCALE:
            return picture
        if self.paste_to is None:
            picture = self._resized(picture)
        if mask is None:
            return picture
        if self.paste_to is None:
            mask = self._resized(mask).point(lambda value: min(2 * value, 255))
        elif mask.size != picture.size:
            mask = mask.resize(picture.size)
        self.mask_for_overlay = mask
        overlay = picture.convert("RGBA")
        overlay.putalpha(ImageOps.invert(mask))
        self.overlay_images: list[Image.Image] | None = [*(self.overlay_images or []), overlay]
        return self._cropped(picture)

    def _fitted_mask(self, mask: Image.Image) -> Image.Image:
        return self._resized(mask) if self.paste_to is None else self._cropped(mask)

    def _resized(self, picture: Image.Image) -> Image.Image:
        return images.resize_image(self.resize_mode % LATENT_UPSCALE, picture, self.width, self.height)

    def _cropped(self, picture: Image.Image) -> Image.Image:
        if self.paste_to is None:
            return picture
        left, top, width, height = self.paste_to
        part = picture.crop((left, top, left + width, top + height))
        return images.resize_image(2, part, self.width, self.height)

    def _encoded(self, pictures: list[Image.Image]) -> Tensor:
        stacked = torch.from_numpy(np.stack([np.asarray(p, np.float32) / 255 for p in pictures])).permute(
            0, 3, 1, 2
        )
        encoded = latents.encode(self.sd_model.vae, stacked).to(self.sd_model.unet.dtype)
        size = (self.height // opt_f, self.width // opt_f)
        return encoded if encoded.shape[-2:] == size else F.interpolate(encoded, size, mode="bilinear")

    def _batch(self, ones: Tensor) -> Tensor:
        return ones.expand(self.batch_size, -1, -1, -1).contiguous()

    def _mask_latents(self, mask: Image.Image, pictures: list[Image.Image], all_seeds: list[int]) -> None:
        cells = (
            np.asarray(mask.resize((self.init_latent.shape[3], self.init_latent.shape[2])), np.float32) / 255
        )
        self.nmask = torch.from_numpy(cells.round() if self.mask_round else cells).to(self.init_latent)[
            None, None
        ]
        if self.inpainting_fill == LATENT_NOISE:
            noise = rng.ImageRNG(self.init_latent.shape[1:], all_seeds[: self.batch_size]).next()
            self.init_latent = self.init_latent * (1 - self.nmask) + noise * self.nmask
        elif self.inpainting_fill == LATENT_NOTHING:
            self.init_latent = self.init_latent * (1 - self.nmask)
        if not self.sd_model.wants_mask:
            return
        grey = Image.new("RGB", mask.size, (127, 127, 127))
        masked = [
            Image.composite(grey, picture, mask.point(lambda value: 255 * (value > 127)))
            for picture in pictures
        ]
        self.masked_init = self._batch(self._encoded(masked))

    def _blended(self, samples: Tensor, nmask: Tensor, init: Tensor) -> Tensor:
        """A1111's last blend: diffusers has put the kept latents back, but scripts may object."""
        mba = scripts.MaskBlendArgs(samples, nmask, init, 1 - nmask, samples * nmask + init * (1 - nmask))
        self.scripts.on_mask_blend(self, mba)
        return mba.blended_latent
