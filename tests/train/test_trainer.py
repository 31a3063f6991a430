"""Training: what learns, what stays locked, what survives a kill, and what comes out."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import nets
import pytest
import torch
from diffusers import ControlNetModel
from embedded_nets import write_ldm
from PIL import Image
from safetensors.torch import load_file
from training import SIDE, TINY, Latents, Shapes, base, quick, shape, state, write_folder

from controlstack import family, plan, preprocess
from controlstack.catalog import Catalog
from controlstack.errors import ControlError
from controlstack.hosts import unet_diffusers
from controlstack.session import Session
from controlstack.sources import Job
from controlstack.train import saving
from controlstack.train.__main__ import main
from controlstack.train.trainer import train
from controlstack.unit import parse
from controlstack.weights import Loaded, read_header

PACKAGES = Path(__file__).parents[2] / "lib_controlnet"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PACKAGES), "OMP_NUM_THREADS": "1"}
STEPS = 6


def losses(out: Path) -> list[float]:
    with (out / "loss.csv").open(encoding="utf-8", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def equal(one: Path, other: Path) -> bool:
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_copy_learns_and_the_base_does_not(tmp_path: Path):
    """One example is seen again and again."""
    model = base()
    parts = [model.components[name] for name in ("unet", "vae", "text_encoder")]
    before, processors = state(*parts), dict(model.unet.attn_processors)
    config = quick(steps=40, batch=4, learning_rate=3e-3, prompt_dropout=0.0, save_every=40)
    train(model, Latents(1), tmp_path, config)
    curve = losses(tmp_path)
    assert len(curve) == 40
    assert sum(curve[-10:]) < 0.8 * sum(curve[:10])
    assert all(torch.equal(one, other) for one, other in zip(before, state(*parts), strict=True))
    assert not any(parameter.requires_grad for part in parts for parameter in part.parameters())
    assert dict(model.unet.attn_processors) == processors


def test_accumulated_batches_are_one_large_batch(tmp_path: Path):
    """Source: the gradient of a mean over 8 is the mean of the gradients of its four quarters."""
    for name, batch, accumulate in (("large", 8, 1), ("small", 2, 4)):
        config = quick(steps=1, batch=batch, accumulate=accumulate, learning_rate=1e-4)
        train(base(), Latents(), tmp_path / name, config)
    model = Path("model", "controlnet.safetensors")
    large, small = (load_file(tmp_path / name / model) for name in ("large", "small"))
    assert losses(tmp_path / "large") == pytest.approx(losses(tmp_path / "small"), rel=1e-5)
    for name in large:
        torch.testing.assert_close(large[name], small[name], rtol=0, atol=1e-6)


def test_killed_and_resumed_is_as_if_nothing_happened(tmp_path: Path):
    """A real process, ended by the system between two checkpoints; then the weights, bit for bit."""
    parts = base().components
    file = write_ldm(parts, tmp_path / "base.safetensors", saving.structure(nets.controlnet(TINY)))
    data = write_folder(tmp_path / "data")

    def told(out: Path, *more: str) -> list[str]:
        options = ["--base", file, "--data", data, "--out", out, "--batch", 2, "--steps", STEPS, "--cpu"]
        options += ["--hint-channels", 4, 8, 8, 16, "--learning-rate", 1e-3, "--ema", 0.9, "--hold-out", 2]
        options += ["--save-every", 2, "--save-precision", "fp32", "--validation-steps", 1]
        options += ["--validate-every", 4, *more]
        return [str(option) for option in options]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-m", "controlstack.train", *told(killed)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (killed / "checkpoints" / f"{2:07}").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "checkpoints" / f"{STEPS:07}").exists()
    (killed / "checkpoints" / f"{STEPS:07}.part").mkdir(exist_ok=True)  # killed while it was writing

    assert main(told(killed, "--resume")) == 0
    assert main(told(whole)) == 0
    model = Path("model", "controlnet.safetensors")
    assert equal(killed / model, whole / model)
    assert losses(killed) == losses(whole)
    assert len(losses(killed)) == STEPS
    for out in (killed, whole):
        assert sorted(folder.name for folder in (out / "checkpoints").iterdir()) == [f"{4:07}", f"{6:07}"]
        assert {file.name for file in (out / "validation").iterdir()} == {f"{4:07}.png", f"{6:07}.png"}
        with (
            Image.open(out / "validation" / f"{STEPS:07}.png") as sheet,
            Image.open(out / "loss.png") as plot,
        ):
            assert sheet.size == (2 * 256, 20 + 3 * 256)
            assert plot.getcolors(1 << 20)
    assert main(told(whole)) == 1
    assert main(told(whole, "--resume", "--seed", "1")) == 1


def test_it_stops_when_asked_and_goes_on_with_the_same_settings(tmp_path: Path):
    asked = iter([False, False, True])
    config = quick(steps=5, ema=None)
    train(base(), Latents(), tmp_path, config, stop=lambda: next(asked))
    assert len(losses(tmp_path)) == 3
    with pytest.raises(ControlError, match=r"batch was 2 and is 4"):
        train(base(), Latents(), tmp_path, quick(steps=5, batch=4), resume=True)
    with pytest.raises(ControlError, match=r"came to step 3.*Add --resume"):
        train(base(), Latents(), tmp_path, config)
    file = train(base(), Latents(), tmp_path, config, resume=True)
    assert equal(file, train(base(), Latents(), tmp_path / "whole", config))


def test_the_result_is_recognised_and_acts(tmp_path: Path):
    """Both files hold one net; expected residuals are those of diffusers' own loading of its folder."""
    file = train(base(), Latents(), tmp_path, quick(learning_rate=1e-2, preprocessor="canny"))
    other = file.with_suffix("") / "diffusion_pytorch_model.safetensors"
    theirs = ControlNetModel.from_pretrained(file.with_suffix("")).eval()
    draw = torch.Generator().manual_seed(0)
    x, hint = torch.randn(1, 4, 8, 8, generator=draw), torch.rand(1, 3, SIDE, SIDE, generator=draw)
    context, t = torch.randn(1, 77, 64, generator=draw), torch.tensor([400])
    with torch.no_grad():
        expected, middle = theirs(x, t, context, hint, return_dict=False)
    assert any(skip.abs().max() > 1e-4 for skip in expected)
    for path in (file, other):
        header = read_header(path)
        about = {"base": "tiny", "steps": "4", "preprocessor": "canny", "num_attention_heads": "[2, 2, 2, 2]"}
        assert about.items() <= header.metadata.items()
        assert header.metadata["base_hash"] == saving.fingerprint(base())
        match = family.recognise(header)
        assert match.family.name == "ControlNet"
        assert match.base == unet_diffusers.base_of(base().unet)
        network = match.family.load(match, nets.Host())
        with torch.no_grad():
            found = network.net(x, t, context, network.hint_encoder(hint), return_dict=False)
        assert all(torch.equal(a, b) for a, b in zip((*expected, middle), (*found[0], found[1]), strict=True))
    assert all(name.startswith("control_model.") for name in read_header(file).shapes)


def test_the_result_acts_in_a_session(tmp_path: Path):
    """Found by its name and at work on a UNet as in the embedded host; expected: diffusers' own sum."""
    file = train(base(), Latents(), tmp_path, quick(learning_rate=1e-2))
    unet, (picture, _, _) = base().unet, shape(0)
    job = Job(SIDE, SIDE, unet_diffusers.base_of(unet))
    unit = parse({"model": "controlnet", "module": "canny", "image": picture})
    plans = [plan.resolve(0, unit, job, Catalog([file.parent]))]
    draw = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 77, 64, generator=draw)
    t = torch.tensor(400)
    session = Session(Loaded(1), preprocess.Cache(), plans)
    session.prepare()
    session.begin(SIDE, SIDE, unet_diffusers.LiveUNet(unet), hires=False)
    follow = unet_diffusers.follow(unet, session.step, session.joints, pictures=1, evaluations=lambda: 1)
    with torch.no_grad(), follow:
        found = unet(x, t, context).sample
    session.close()

    net = ControlNetModel.from_pretrained(file.with_suffix("")).eval()
    edges = torch.from_numpy(cv2.Canny(picture, 100, 200)).float()[None, None] / 255
    with torch.no_grad():
        skips, middle = net(x, t, context, edges.expand(2, 3, -1, -1), return_dict=False)
        expected = unet(
            *(x, t, context), down_block_additional_residuals=skips, mid_block_additional_residual=middle
        ).sample
        plain = unet(x, t, context).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (expected - plain).abs().max() > 1e-3


def test_cached_latents_train_the_same(tmp_path: Path):
    """But for rounding: the VAE sees pictures one by one."""
    for name, cached in (("fresh", False), ("cached", True)):
        train(base("sdxl"), Shapes(3), tmp_path / name, quick(steps=2, cache_latents=cached))
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "fresh"), rel=1e-4)
    assert len(list((tmp_path / "cached" / "cache").rglob("*.safetensors"))) == 3


def test_checkpointed_gradients_are_the_same(tmp_path: Path):
    """They are computed twice, in the same order."""
    stored = train(base(), Latents(), tmp_path / "stored", quick(steps=2))
    twice = train(base(), Latents(), tmp_path / "twice", quick(steps=2, gradient_checkpointing=True))
    assert equal(stored, twice)
    assert not base().unet.is_gradient_checkpointing
    assert not base().unet.training


def test_many_options_at_once(tmp_path: Path):
    """Mixed precision needs a process of its own: accelerate cannot change it."""
    file = write_ldm(base("sdxl").components, tmp_path / "sdxl.safetensors")
    data = write_folder(tmp_path / "data", 6)
    shutil.rmtree(data / "hints")
    options = ["--base", file, "--data", data, "--out", tmp_path / "out", "--name", "canny", "--cpu"]
    options += ["--steps", 2, "--batch", 2, "--accumulate", 2, "--precision", "bf16", "--min-snr", 5]
    options += ["--preprocessor", "canny", "--cache-latents", "--gradient-checkpointing", "--ema", 0.9]
    options += ["--schedule", "cosine", "--warmup", 1, "--hint-channels", 4, 8, 8, 16, "--prediction", "v"]
    options += ["--validation-steps", 1, "--hold-out", 1, "--workers", 1]
    command = [sys.executable, "-m", "controlstack.train", *map(str, options)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "6 examples of 64x64 px, 1 of them held out." in done.stdout
    assert re.search(r"2/2 .*loss=\d", done.stderr)  # the bar
    header = read_header(tmp_path / "out" / "model" / "canny.safetensors")
    assert family.recognise(header).base == unet_diffusers.base_of(base("sdxl").unet)
    assert header.metadata["preprocessor"] == "canny"
    assert {tensor.dtype for tensor in load_file(header.path).values()} == {torch.float16}
    assert (tmp_path / "out" / "validation" / "0000002.png").is_file()


def test_the_moving_average_is_what_is_saved(tmp_path: Path):
    """diffusers' average is the weights after the first step, and decays by 2/11 in the second."""
    settings = {"one": dict(steps=1), "two": dict(steps=2), "average": dict(steps=2, ema=0.5)}
    one, two, average = (
        load_file(train(base(), Latents(), tmp_path / name, quick(**changed)))
        for name, changed in settings.items()
    )
    for name in one:
        expected = one[name] * 2 / 11 + two[name] * 9 / 11
        torch.testing.assert_close(average[name], expected, rtol=1e-5, atol=1e-7)


def test_learning_rates():
    """Warm-up to the full rate over 3 steps, then half a cosine to 0; or a line."""
    config = quick(steps=7, warmup=3, learning_rate=1.0, schedule="cosine")
    assert [config.rate(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert config.rate(5) == pytest.approx(0.5)
    assert quick(steps=10, learning_rate=1.0, schedule="linear").rate(9) == pytest.approx(0.1)
    assert quick(steps=10, learning_rate=2.0).rate(9) == 2.0


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (dict(batch=0), "batch must be at least 1"),
        (dict(prompt_dropout=1.5), "prompt_dropout must be from 0 to 1"),
        (dict(precision="fp8"), "precision must be one of fp32, fp16, bf16"),
        (dict(ema=1.0), "ema must be between 0 and 1"),
    ],
)
def test_settings_that_make_no_sense(changed, sentence, tmp_path: Path):
    with pytest.raises(ControlError, match=sentence):
        train(base(), Latents(), tmp_path, quick(**changed))
