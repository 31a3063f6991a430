"""Every kind of job on a base from an LDM file, over HTTP."""

from __future__ import annotations

import numpy as np
import pytest
from embedded_nets import write_ldm
from embedded_server import encoded, running
from PIL import Image

from controlstack.hosts.embedded import random_nets

HALF = Image.fromarray(np.repeat([[0] * 32 + [255] * 32], 96, axis=0).astype(np.uint8))


@pytest.mark.parametrize(("kind", "options"), [("sd2", ["--prediction", "v"]), ("sdxl", [])])
def test_all_jobs(kind, options, tmp_path):
    file = write_ldm(getattr(random_nets, kind)(), tmp_path / f"{kind}.safetensors")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 64, 3), np.uint8))
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
    pictures = [picture for job in jobs for picture in job.arrays]
    assert min(picture.std(axis=(0, 1)).min() for picture in pictures) > 5
    assert np.abs(pictures[1] - alone.arrays[0]).max() <= 1
    assert jobs[0].info["sd_model_name"] == kind
