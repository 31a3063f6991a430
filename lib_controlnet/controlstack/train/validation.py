"""Validation pictures: the same few hints again and again, sampled with diffusers' own pipeline."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from controlstack.hosts.embedded import latents
from controlstack.train.config import Config
from controlstack.train.objective import Objective, unit_range
from controlstack.train.samples import CELL, Examples, collate

WIDTH, TITLE = 256, 20
"""Px of a cell of the sheet, and of the caption above it."""


class Validation:
    """The pictures of all examples of `data`, which should be few."""

    def __init__(self, objective: Objective, data: Examples, config: Config) -> None:
        examples = [data[i] for i in range(len(data))]
        self._objective, self._config = objective, config
        self._hints = torch.stack([unit_range(example["hint"]) for example in examples])
        self._captions = [str(example.get("caption", "")) for example in examples]
        batch = collate([{**example, "kept": torch.tensor(True)} for example in examples])
        self._prompt = objective.prompt(batch)
        if "picture" in batch:
            self._pictures = unit_range(batch["picture"])
        else:
            self._pictures = self._decode(batch["latent"])

    @torch.no_grad()
    def sheet(self, net: Any) -> Image.Image:
        """A column for each example: its hint, the picture it was made of, what the net makes of it."""
        dtype = self._objective.dtype
        hook = net.register_forward_hook(lambda _, __, output: _cast(output, dtype))
        net.eval()
        try:
            made = self._sample(net)
        finally:
            net.train()
            hook.remove()
        rows = (self._hints.clamp(min=0), self._pictures, made)
        height = round(WIDTH * made.shape[-2] / made.shape[-1])
        sheet = Image.new("RGB", (WIDTH * len(made), TITLE + len(rows) * height), "white")
        canvas = ImageDraw.Draw(sheet)
        for column, caption in enumerate(self._captions):
            canvas.text((WIDTH * column + 4, 4), caption[:40], "black")
            for row, pictures in enumerate(rows):
                picture = _pixels(pictures[column]).resize((WIDTH, height))
                sheet.paste(picture, (WIDTH * column, TITLE + row * height))
        return sheet

    def _sample(self, net: Any) -> Tensor:
        """Pictures "B 3 H W", 0..1, from their hints and captions, each from a noise of its own."""
        base, empty = self._objective.base, self._objective.captions.empty
        pipe = self._pipeline(net)
        height, width = self._hints.shape[-2:]
        generators = [torch.Generator().manual_seed(self._config.seed + i) for i in range(len(self._hints))]
        noise = [torch.randn((1, 4, height // CELL, width // CELL), generator=g) for g in generators]
        found = []
        for i in range(len(self._hints)):
            prompt: dict[str, Any] = {
                "prompt_embeds": self._prompt.context[i : i + 1],
                "negative_prompt_embeds": empty.context,
            }
            if self._prompt.pooled is not None:
                prompt["pooled_prompt_embeds"] = self._prompt.pooled[i : i + 1]
                prompt["negative_pooled_prompt_embeds"] = empty.pooled
            found.append(
                pipe(
                    **prompt,
                    image=self._hints[i : i + 1],
                    latents=noise[i].to(base.device, self._objective.dtype),
                    num_inference_steps=self._config.validation_steps,
                    guidance_scale=self._config.guidance,
                    output_type="latent",
                ).images
            )
        return self._decode(torch.cat(found).float())

    def _decode(self, found: Tensor) -> Tensor:
        vae = self._objective.base.vae
        home = vae.device  # the CPU while latents are cached
        vae.to(self._objective.base.device)
        pictures = latents.decode(vae, found).cpu()
        vae.to(home)
        return pictures

    def _pipeline(self, net: Any) -> Any:
        import diffusers

        base = self._objective.base
        parts = dict.fromkeys(("text_encoder", "tokenizer"))
        if base.is_sdxl:
            kind = diffusers.StableDiffusionXLControlNetPipeline
            more = {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
        else:
            kind = diffusers.StableDiffusionControlNetPipeline
            more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        scheduler = diffusers.DDIMScheduler.from_config(base.schedule)
        pipe = kind(vae=base.vae, unet=base.unet, controlnet=net, scheduler=scheduler, **parts, **more)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def _cast(output: tuple[list[Tensor], Tensor], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Residuals in the base's precision, which is not the learning net's."""
    skips, middle = output
    return [skip.to(dtype) for skip in skips], middle.to(dtype)


def _pixels(picture: Tensor) -> Image.Image:
    """ "3 H W", 0..1."""
    return Image.fromarray((picture * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
