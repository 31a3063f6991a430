"""The demo's base with the engine around it, picture by picture, as in a host but without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from controlstack import plan, preprocess
from controlstack.catalog import Catalog
from controlstack.hosts import unet_diffusers
from controlstack.hosts.embedded import checkpoint, demo_models
from controlstack.image import Array
from controlstack.session import Session
from controlstack.sources import Job
from controlstack.train.demo.solids import SIZE
from controlstack.unit import parse
from controlstack.weights import Loaded


class Painter:
    """Pictures of 128 × 128 px by the base in a folder and the ControlNets beside it."""

    def __init__(self, folder: Path = demo_models.FOLDER, steps: int = 20, cfg: float = 3.0) -> None:
        import diffusers

        read = checkpoint.read(folder / f"{demo_models.BASE}.safetensors")
        read.prepare(torch.float32)
        self.steps, self.cfg, self.unet, self.vae = steps, cfg, read.unet, read.vae
        scheduler = diffusers.DDIMScheduler.from_config(read.schedule)
        safety: dict[str, Any] = dict(
            safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        self._pipe = diffusers.StableDiffusionPipeline(**read.components, scheduler=scheduler, **safety)
        self._pipe.set_progress_bar_config(disable=True)
        self._catalog, self._loaded = Catalog([folder / demo_models.CONTROLNETS]), Loaded(4)

    def __call__(self, prompt: str, units: Sequence[Mapping[str, Any]] = (), seed: int = 0) -> Array:
        """A picture "128 128 3" under these units, each the fields of a request."""
        job = Job(SIZE, SIZE, unet_diffusers.base_of(self.unet))
        parsed = [parse({"processor_res": SIZE, **unit}) for unit in units]
        plans = [plan.resolve(place, unit, job, self._catalog) for place, unit in enumerate(parsed)]
        session = Session(self._loaded, preprocess.Cache(), plans)
        session.prepare()
        session.begin(SIZE, SIZE, unet_diffusers.LiveUNet(self.unet), hires=False)
        try:
            with unet_diffusers.follow(
                self.unet,
                session.step,
                session.joints,
                pictures=1,
                evaluations=lambda: self._pipe.num_timesteps,
            ):
                return self._paint(prompt, seed)
        finally:
            session.close()

    def reconstruct(self, picture: Array) -> Array:
        """What is left of a picture after the VAE."""
        seen = torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
        with torch.no_grad():
            made = self.vae.decode(self.vae.encode(seen).latent_dist.mean).sample[0]
        return np.asarray((made.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(1, 2, 0))

    def _paint(self, prompt: str, seed: int) -> Array:
        made = self._pipe(
            prompt,
            height=SIZE,
            width=SIZE,
            num_inference_steps=self.steps,
            guidance_scale=self.cfg,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        )
        picture: Array = np.rint(made.images[0] * 255).astype(np.uint8)
        return picture
