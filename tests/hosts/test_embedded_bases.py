"""Every kind of job on a base from an LDM file, over HTTP, and the families that act on such bases only."""

from __future__ import annotations

import numpy as np
import pytest
from embedded_nets import write_ldm
from embedded_server import encoded, running
from PIL import Image
from random_encoders import write_clip
from test_embedded_checkpoint_kinds import with_channels

from controlstack.hosts.embedded import random_nets

POOLED = 64
"""Channels of the random SDXL's pooled prompt."""
HALF = Image.fromarray(np.repeat([[0] * 32 + [255] * 32], 96, axis=0).astype(np.uint8))


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 64, 3), np.uint8))
FAMILIES = {
    "sd2": [],
    "sdxl": [{"module": "revision_clipvision"}, {"module": "revision_ignore_prompt"}],
    "inpainting": [{"module": "inpaint", "mask": encoded(HALF)}],
}


def parts(kind):
    if kind == "inpainting":
        return with_channels(random_nets.sd1(), 9)
    return getattr(random_nets, kind)()


@pytest.mark.parametrize(
    ("kind", "options"), [("sd2", ["--prediction", "v"]), ("sdxl", []), ("inpainting", [])]
)
def test_all_jobs(kind, options, tmp_path):
    file = write_ldm(parts(kind), tmp_path / f"{kind}.safetensors")
    picture = PICTURE
    write_clip(tmp_path / "data" / "models" / "ControlNetPreprocessor", "clip_g.pth", 32, POOLED)
    with running(tmp_path / "data", "--ckpt", str(file), *options) as host:
        jobs = [
            host.txt2img(batch_size=2),
            host.txt2img(cfg_scale=1.0),
            host.txt2img(negative_prompt=""),
            host.txt2img(enable_hr=True, hr_scale=1.5),
            host.img2img(picture),
            host.img2img(picture, mask=encoded(HALF)),
        ]
        alone = host.txt2img(seed=6)
        for asked in FAMILIES[kind]:
            shows_and_leaves_nothing(host, {"model": "None", "image": encoded(picture), **asked})
    pictures = [picture for job in jobs for picture in job.arrays]
    assert min(picture.std(axis=(0, 1)).min() for picture in pictures) > 5
    assert np.abs(pictures[1] - alone.arrays[0]).max() <= 1
    assert jobs[0].info["sd_model_name"] == kind


def shows_and_leaves_nothing(host, unit):
    def picture(*units):
        scripts = {"controlnet": {"args": list(units)}}
        return host.txt2img(alwayson_scripts=scripts).arrays[0]

    plain, shown = picture(), picture(unit)
    assert np.abs(shown - plain).mean() >= 0.5
    assert np.array_equal(picture(unit), shown)
    assert np.array_equal(picture({**unit, "weight": 0}, {**unit, "guidance_start": 0.9}), plain)
    assert np.array_equal(picture(), plain)
