"""The stages that make the demo models: VAE, encoded scenes, base, ControlNets, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from controlstack.hosts.embedded import demo_models, tokenizer
from controlstack.image import Array
from controlstack.train import encoder_copy
from controlstack.train.demo import base, control, dataset, files, readouts, sheets, stage, vae
from controlstack.train.demo.scenes import scene
from controlstack.train.files import whole

SCENES = 12_000
EXAMPLE = 19
"""The held-out scene that the demo shows."""
VAE_SCENES = 6_000
VAE_CROPS, VAE_WHOLE = 1_500, 180
"""Steps on crops of 64 px, eight at a time, and then on whole pictures, four at a time."""
BASE_STEPS = 2_600
CONTROLS: dict[str, tuple[str, int]] = {
    "canny": ("", 1_300),
    "depth": ("canny", 600),
    "segmentation": ("canny", 600),
    "openpose": ("segmentation", 700),
}
"""Each kind's start and steps: the first learns to be a ControlNet, the others only their hints."""
READER_SCENES, READER_STEPS = 1_500, 900
RATE = 2e-3
CONTROL_RATE = 1.5e-3


def train_vae(work: Path) -> None:
    """20 minutes of one CPU core."""
    torch.manual_seed(0)
    autoencoder = vae.build()
    pictures = np.stack([scene(seed).picture for seed in range(VAE_SCENES)])
    steps = VAE_CROPS + VAE_WHOLE
    stage.train(
        work / "vae.pt",
        {"vae": autoencoder},
        lambda step: vae.loss(autoencoder, _crops(pictures, step, whole=step >= VAE_CROPS)),
        steps,
        RATE,
    )
    with torch.no_grad():
        found = [vae.encode(autoencoder, dataset.tensor(pictures[at : at + 20])) for at in range(0, 1000, 20)]
    vae.normalise(autoencoder, torch.cat(found))
    _keep(autoencoder.state_dict(), work, "vae")


def trained_vae(work: Path) -> Any:
    autoencoder = vae.build()
    autoencoder.load_state_dict(_kept(work, "vae"))
    return autoencoder.eval().requires_grad_(False)


def encode_scenes(work: Path) -> None:
    dataset.make(work / "scenes", trained_vae(work), SCENES)


def train_base(work: Path) -> None:
    """40 minutes of one CPU core."""
    torch.manual_seed(0)
    unet, text_encoder = base.build_unet(), base.build_text_encoder()
    scenes = dataset.load(work / "scenes")
    loss = base.Loss(unet, text_encoder, scenes, tokens(list(scenes.captions)), tokens([""]))
    vocabulary = text_encoder.get_input_embeddings().weight
    nets = {"unet": unet, "text_encoder": text_encoder}
    stage.train(work / "base.pt", nets, loss, BASE_STEPS, RATE, plain=(vocabulary,))
    _keep({name: net.state_dict() for name, net in nets.items()}, work, "base")


def trained_base(work: Path) -> tuple[Any, Any]:
    """UNet and text encoder."""
    unet, text_encoder = base.build_unet(), base.build_text_encoder()
    state = _kept(work, "base")
    for net, name in ((unet, "unet"), (text_encoder, "text_encoder")):
        net.load_state_dict(state[name])
        net.eval().requires_grad_(False)
    return unet, text_encoder


def train_reader(work: Path) -> None:
    """The net that reads depth and classes, on true pictures and on their reconstructions."""
    torch.manual_seed(0)
    reader, autoencoder = readouts.Reader(), trained_vae(work)
    made = [scene(seed) for seed in range(READER_SCENES)]
    pictures = [one.picture for one in made]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        again = [
            vae.decode(autoencoder, vae.encode(autoencoder, dataset.tensor(pictures[at : at + 20]))).float()
            for at in range(0, len(pictures), 20)
        ]
    seen = torch.cat([dataset.tensor(pictures), *again]).bfloat16()
    depth = torch.from_numpy(readouts.cells(np.stack([one.depth for one in made])))
    classes = torch.from_numpy(readouts.cells(np.stack([one.classes for one in made]))).long()

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng(step)
        chosen = torch.from_numpy(rng.integers(0, len(seen), 16))
        truth = chosen % len(made)
        with torch.autocast("cpu", torch.bfloat16):
            found, scores = reader(seen[chosen].float())
        wrong = torch.nn.functional.cross_entropy(scores.float(), classes[truth])
        total: Tensor = 4 * (found.float() - depth[truth]).abs().mean() + wrong
        return total

    stage.train(work / "reader.pt", {"reader": reader}, loss, READER_STEPS, RATE)
    _keep(reader.state_dict(), work, "reader")


def train_control(kind: str) -> Callable[[Path], None]:
    def run(work: Path) -> None:
        parts = trained_base(work)
        net = encoder_copy.copy(parts[0], control.HINT_CHANNELS)
        net.set_attn_processor(parts[0].mid_block.attentions[0].transformer_blocks[0].attn1.processor)
        scenes = dataset.load(work / "scenes")
        loss = control.Loss(kind, (net, *parts), scenes, tokens(list(scenes.captions)), tokens([""]))
        start, steps = CONTROLS[kind]
        if start:
            net.load_state_dict(_kept(work, start))
        stage.train(work / f"{kind}.pt", {"net": net}, loss, steps, CONTROL_RATE)
        _keep(net.state_dict(), work, kind)

    return run


def write_files(work: Path) -> None:
    """Write what is through into `demo_models.FOLDER`."""
    folder = demo_models.FOLDER
    unet, text_encoder = trained_base(work)
    files.save_base(folder, unet, trained_vae(work), text_encoder)
    for kind in control.HINTS:
        if _result(work, kind).exists():
            files.save_controlnet(folder, kind, _kept(work, kind))
    for name, picture in examples().items():
        (folder / demo_models.EXAMPLES).mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / demo_models.EXAMPLES / f"{name}.png", optimize=True)
    files.save_reader(folder, _kept(work, "reader"))


def examples() -> dict[str, Array]:
    """Pictures for the demo, which has no generator of scenes."""
    shown = scene(dataset.HELD_OUT + EXAMPLE)
    return {"scene": shown.picture, "scene-depth": control.hint("depth", shown)}


def tokens(captions: list[str]) -> Tensor:
    """ "n 77" """
    found: Tensor = tokenizer.clip()(
        captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    ).input_ids
    return found


def once(name: str, train: Callable[[Path], None]) -> Callable[[Path], None]:
    """A stage that rests where its result is there."""

    def run(work: Path) -> None:
        if not _result(work, name).exists():
            train(work)

    return run


def _keep(state: Any, work: Path, name: str) -> None:
    with whole(_result(work, name)) as part:
        torch.save(state, part)


def _kept(work: Path, name: str) -> Any:
    return torch.load(_result(work, name), weights_only=True)


def _result(work: Path, name: str) -> Path:
    return work / f"{name}.done.pt"


def _crops(pictures: Any, step: int, *, whole: bool) -> Tensor:
    rng = np.random.default_rng(step)
    chosen = pictures[rng.integers(0, len(pictures), 4 if whole else 8)]
    if not whole:
        corners = rng.integers(0, 65, (len(chosen), 2))
        chosen = np.stack([one[y : y + 64, x : x + 64] for one, (y, x) in zip(chosen, corners, strict=True)])
    flipped = chosen[:, :, ::-1] if rng.random() < 0.5 else chosen
    return dataset.tensor(flipped)


STAGES: dict[str, Callable[[Path], object]] = {
    "vae": once("vae", train_vae),
    "scenes": encode_scenes,
    "base": once("base", train_base),
    "reader": once("reader", train_reader),
    **{kind: once(kind, train_control(kind)) for kind in CONTROLS},
    "files": write_files,
    "sheets": lambda _: sheets.make(),
}
