"""Running a job: batches, and the order in which the hooks of scripts are called."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from modules import images, limits, scripts, shared
from modules.infotext_utils import create_infotext
from modules.paths import default_output_dir
from modules.processed import Processed
from modules.processing_base import NOT_OFFERED, DecodedSamples, StableDiffusionProcessing, opt_f
from modules.processing_img2img import StableDiffusionProcessingImg2Img
from modules.processing_txt2img import StableDiffusionProcessingTxt2Img
from PIL import Image
from torch import Tensor

from controlstack.hosts.embedded import latents

__all__ = [
    "Processed",
    "StableDiffusionProcessing",
    "StableDiffusionProcessingImg2Img",
    "StableDiffusionProcessingTxt2Img",
    "create_infotext",
    "fix_seed",
    "get_fixed_seed",
    "process_images",
    "process_images_inner",
]


def process_images(p: StableDiffusionProcessing) -> Processed:
    """Run a job under the settings that it overrides."""
    if p.scripts is None:  # a job of another script's may run without any
        p.scripts = scripts.ScriptRunner()
    p.scripts.before_process(p)
    with _overridden_settings(p):
        return process_images_inner(p)


def process_images_inner(p: StableDiffusionProcessing) -> Processed:
    """Run a job. The hooks come in A1111's order, which a test holds."""
    limits.check(p)
    p.outpath_samples = p.outpath_samples or default_output_dir
    p.width, p.height = p.width // opt_f * opt_f, p.height // opt_f * opt_f
    p.job_timestamp = shared.state.job_timestamp
    _fill_lists(p)
    _comment_on_what_is_ignored(p)
    p.scripts.process(p)
    pictures: list[Image.Image] = []
    with torch.no_grad():
        p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
        shared.state.job_count = p.n_iter
        for n in range(p.n_iter):
            if shared.state.interrupted:
                break
            shared.state.skipped = False
            pictures += _batch(p, n)
            shared.state.nextjob()
    infotexts = [picture.info["parameters"] for picture in pictures]
    processed = Processed(p, pictures, info=infotexts[0] if infotexts else "", infotexts=infotexts)
    p.scripts.postprocess(p, processed)
    return processed


def fix_seed(p: StableDiffusionProcessing) -> None:
    """Draw the random seeds of a job now."""
    p.seed, p.subseed = get_fixed_seed(p.seed), get_fixed_seed(p.subseed)


def get_fixed_seed(seed: Any) -> Any:
    """The seed, or a random one for -1, None and ""; a list of seeds stays one."""
    return random.randrange(4294967294) if seed in (-1, None, "", "-1") else seed  # noqa: S311  no secret


def _fill_lists(p: StableDiffusionProcessing) -> None:
    """One prompt and one seed for each picture of the job; seeds count up, or else those of variations.

    Raises ValueError for a list of another length than the job has pictures.
    """
    fix_seed(p)
    count = p.batch_size * p.n_iter
    p.all_prompts = _list_of(p.prompt, count)
    p.all_negative_prompts = _list_of(p.negative_prompt, count)
    p.all_seeds = _list_of(p.seed, count, step=0 if p.subseed_strength else 1)
    p.all_subseeds = _list_of(p.subseed, count, step=1)


def _list_of(value: Any, count: int, step: int = 0) -> list[Any]:
    if not isinstance(value, list):
        return [int(value) + i * step for i in range(count)] if step else [value] * count
    if len(value) != count:
        raise ValueError(f"A list of {len(value)} prompts or seeds does not fit a job of {count} pictures")
    return list(value)


def _comment_on_what_is_ignored(p: StableDiffusionProcessing) -> None:
    for name in NOT_OFFERED:
        if getattr(p, name) not in (None, False, 0, -1, "", [], "None"):
            p.comment(f"The embedded host does not offer {name}; it was ignored.")


@contextmanager
def _overridden_settings(p: StableDiffusionProcessing) -> Iterator[None]:
    before = dict(shared.opts.data)
    for key, value in p.override_settings.items():
        if shared.opts.is_restricted(key):
            p.comment(f"The setting {key} cannot be changed from outside; it was left as it is.")
        else:
            shared.opts.data[key] = value
    wanted = p.override_settings.get("sd_model_checkpoint")
    if wanted and not p.sd_model.is_called(str(wanted)):
        p.comment(f"The embedded host paints with {p.sd_model.name} only, not with {wanted}.")
    try:
        yield
    finally:
        if p.override_settings_restore_afterwards:
            shared.opts.data.clear()
            shared.opts.data.update(before)


def _batch(p: StableDiffusionProcessing, n: int) -> list[Image.Image]:
    """The finished pictures of batch `n`."""
    p.iteration = n
    part = slice(n * p.batch_size, (n + 1) * p.batch_size)
    p.prompts, p.negative_prompts = p.all_prompts[part], p.all_negative_prompts[part]
    p.seeds, p.subseeds = p.all_seeds[part], p.all_subseeds[part]
    p.rng = p.image_rng(p.height // opt_f, p.width // opt_f)
    p.scripts.before_process_batch(p, **p.batch_facts())
    p.scripts.after_extra_networks_activate(p, **p.batch_facts(), extra_network_data=p.extra_network_data)
    p.scripts.process_batch(p, **p.batch_facts())
    p.c = p.encode_prompts(p.prompts, p.negative_prompts)
    sampled = scripts.PostSampleArgs(p.sample())
    p.scripts.post_sample(p, sampled)
    decoded = _decoded(p, sampled.samples)
    p.scripts.postprocess_batch(p, decoded, batch_number=n)
    listed = scripts.PostprocessBatchListArgs(list(decoded))
    p.scripts.postprocess_batch_list(p, listed, batch_number=n)
    return [_finished(p, picture, i) for i, picture in enumerate(listed.images)]


def _decoded(p: StableDiffusionProcessing, samples: Tensor | DecodedSamples) -> Tensor:
    """Pictures "B 3 H W", 0..1, on the CPU."""
    if isinstance(samples, DecodedSamples):
        return latents.shown(torch.stack(samples)).cpu()
    return latents.decode(p.sd_model.vae, samples).cpu()


def _finished(p: StableDiffusionProcessing, decoded: Tensor, i: int) -> Any:
    """Picture `i` of a batch below what inpainting keeps, with its infotext; saved if the job wants that."""
    pixels = (decoded * 255).round().clamp(0, 255).permute(1, 2, 0).numpy()
    pp = scripts.PostprocessImageArgs(Image.fromarray(pixels.astype(np.uint8)), i)
    p.scripts.postprocess_image(p, pp)
    overlays = p.overlay_images or []
    overlay = overlays[min(i, len(overlays) - 1)] if overlays else None
    ppmo = scripts.PostProcessMaskOverlayArgs(i, p.mask_for_overlay, overlay)
    p.scripts.postprocess_maskoverlay(p, ppmo)
    pp = scripts.PostprocessImageArgs(_composite(pp.image, p.paste_to, ppmo.overlay_image), i)
    p.scripts.postprocess_image_after_composite(p, pp)
    index = min(p.iteration * p.batch_size + i, len(p.all_seeds) - 1)  # a script may have added pictures
    picture: Any = pp.image
    picture.info["parameters"] = create_infotext(p, index)
    if not p.do_not_save_samples:
        text, name = picture.info["parameters"], str(p.all_seeds[index])
        saved = images.save_image(picture, str(p.outpath_samples), name, info=text)
        picture.already_saved_as = str(saved)
    return picture


def _composite(
    picture: Image.Image, paste_to: tuple[int, int, int, int] | None, overlay: Image.Image | None
) -> Image.Image:
    """The picture below the overlay; where it was painted larger than it is, brought to its place first."""
    if overlay is None:
        return picture
    if paste_to is not None:
        left, top, width, height = paste_to
        canvas = Image.new("RGB", overlay.size)
        canvas.paste(images.resize_image(1, picture, width, height), (left, top))
        picture = canvas
    return Image.alpha_composite(picture.convert("RGBA"), overlay).convert("RGB")
