"""The command line of the embedded host: precision with control, depth checkpoints, what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import diffusers
import nets
import numpy as np
import pytest
from control_server import difference, serving, unit
from embedded_nets import write_ldm
from embedded_server import HERE, Failed, encoded, running
from PIL import Image
from test_embedded_server import close, photograph

from controlstack.hosts.embedded import random_nets


def test_bf16_with_controls_paints_nearly_the_same(tmp_path):
    """A control network works in the base's precision, so its effect stays and stays where it was."""
    pictures = {}
    for dtype in ("fp32", "bf16"):
        with serving(tmp_path / dtype, "--dtype", dtype, "--medvram") as host:
            plain, (controlled, _) = host.pictures()[0], host.pictures(unit(weight=0.8))
            assert np.array_equal(host.pictures()[0], plain)
            pictures[dtype] = plain.astype(int), controlled.astype(int)
            log = (tmp_path / dtype / "log.txt").read_text()
        assert "--lowvram and --medvram spare a CUDA card's memory; on cpu they do nothing." in log
    (plain, controlled), (plain_half, controlled_half) = pictures["fp32"], pictures["bf16"]
    assert not np.array_equal(plain, plain_half)
    effect = difference(plain, controlled)
    assert difference(plain, plain_half) < effect / 3
    assert difference(controlled, controlled_half) < effect / 3


RAMP = """
import numpy as np
from controlstack.preprocess import Preprocessor, register


def ramp(picture, ask):
    across = np.linspace(0, 255, 64).astype(np.uint8)
    return np.dstack([np.tile(across, (96, 1))] * 3)


register(Preprocessor("ramp", ramp, "ramp", control_types=("Depth",)))
"""


def units(*sent):
    return {"ControlNet": {"args": list(sent)}}


@pytest.fixture(scope="module")
def depth_host(tmp_path_factory):
    folder = tmp_path_factory.mktemp("depth")
    parts = random_nets.sd2()
    with random_nets.seeded(1):
        parts["unet"] = diffusers.UNet2DConditionModel.from_config(parts["unet"].config, in_channels=5)
    file = write_ldm(parts, folder / "depth.safetensors")
    net = nets.controlnet(nets.SD2 | dict(cross_attention_dim=64))
    (folder / "data/models/ControlNet").mkdir(parents=True)
    tensors = nets.in_ldm(net.state_dict(), "control_model.")
    nets.save(folder / "data/models/ControlNet/my_depth.safetensors", tensors)
    scripts = folder / "data/extensions/ramp/scripts"
    scripts.mkdir(parents=True)
    (scripts / "ramp.py").write_text(RAMP)
    with running(folder / "data", "--ckpt", str(file)) as client:
        yield client


class TestDepth:
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (96, 1)))
    flipped = ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    def test_the_given_picture_counts(self, depth_host):
        pictures = [
            depth_host.txt2img(depth_map=encoded(depth)).arrays[0] for depth in (self.ramp, self.flipped)
        ]
        assert not close(*pictures)

    def test_every_kind_of_job(self, depth_host):
        depth = {"depth_map": encoded(self.ramp)}
        answers = [
            depth_host.txt2img(batch_size=2, **depth),
            depth_host.txt2img(cfg_scale=1.0, **depth),
            depth_host.txt2img(enable_hr=True, hr_scale=1.5, denoising_strength=0.6, **depth),
            depth_host.img2img(photograph(), **depth),
        ]
        assert [answer.pictures[0].size for answer in answers] == [(64, 96), (64, 96), (96, 144), (64, 96)]
        assert min(answer.arrays[0].std() for answer in answers) > 5
        assert close(answers[0].arrays[1], depth_host.txt2img(seed=6, **depth).arrays[0])

    def test_a_script_may_give_it(self, depth_host):
        """As an extension with a depth map of its own does: `p.depth_map` in any hook before sampling."""
        given = depth_host.txt2img({"depth": "process_before_every_sampling"})
        assert close(given.arrays[0], depth_host.txt2img(depth_map=encoded(self.ramp)).arrays[0])

    def test_a_unit_may_give_it(self, depth_host):
        """Its map, fitted as for the unit, of every pass; weight 0, so that only the checkpoint sees it."""
        unit = {"module": "none", "model": "my_depth", "image": encoded(self.ramp), "weight": 0}
        ramp = {**unit, "module": "ramp", "image": encoded(photograph()), "processor_res": 64}
        hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.6}
        for fields in ({}, hires):
            given = depth_host.txt2img(depth_map=encoded(self.ramp), **fields).arrays[0]
            for sent in (unit, ramp):
                found = depth_host.txt2img(alwayson_scripts=units(sent), **fields).arrays[0]
                assert np.abs(found - given).mean() < 1
        both = units({**unit, "image": encoded(self.flipped)}, unit)
        first = depth_host.txt2img(alwayson_scripts=both).arrays[0]
        assert close(first, depth_host.txt2img(depth_map=encoded(self.flipped)).arrays[0])
        sent = depth_host.txt2img(alwayson_scripts=units(unit), depth_map=encoded(self.flipped)).arrays[0]
        assert close(sent, first)
        assert not close(first, depth_host.txt2img(depth_map=encoded(self.ramp)).arrays[0])

    @pytest.mark.parametrize(
        ("unit", "said"),
        [
            ({"module": "canny", "model": "my_depth"}, "paints after a depth picture, and there is none"),
            ({"module": "none", "model": "nothing"}, "There is no control model called 'nothing'"),
        ],
    )
    def test_a_unit_that_cannot(self, depth_host, unit, said):
        """Another kind of map is not depth; a mistake in the unit is said before the missing picture."""
        sent = units({**unit, "image": encoded(self.ramp), "weight": 0})
        with pytest.raises(Failed) as failed:
            depth_host.txt2img(alwayson_scripts=sent)
        assert said in failed.value.body["errors"]

    def test_without_one_it_says_so(self, depth_host):
        with pytest.raises(Failed) as failed:
            depth_host.txt2img()
        assert "paints after a depth picture, and there is none" in failed.value.body["errors"]

    def test_it_cannot_inpaint(self, depth_host):
        with pytest.raises(Failed) as failed:
            depth_host.img2img(photograph(), mask=encoded(self.ramp), depth_map=encoded(self.ramp))
        assert "for depth cannot inpaint" in failed.value.body["errors"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--api-auth", "nobody"], "give USER:PASS, or several of them with commas between"),
        (["--api-auth", "ann:one,"], "give USER:PASS, or several of them with commas between"),
        (["--lowvram", "--medvram"], "not allowed with argument"),
        (["--dtype", "fp8"], "invalid choice: 'fp8'"),
    ],
)
def test_what_the_command_line_refuses(options, said):
    command = [sys.executable, "-m", "controlstack.hosts.embedded", *options]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1] / "lib_controlnet")}
    outcome = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert outcome.returncode == 2
    assert said in outcome.stderr
