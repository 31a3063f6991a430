"""The same requests to several hosts: what control changes in their pictures, before anything is rounded.

    python tests/hosts/between_hosts.py ask URL FOLDER one.npz NET NET [CASE ...]
    python tests/hosts/between_hosts.py compare CHECKPOINT one.npz other.npz … > table.md
    python tests/hosts/between_hosts.py record URL FOLDER one NET
    python tests/hosts/between_hosts.py unet CHECKPOINT CONTROL_FILE one other …

`unet` gives the embedded host's UNet and its control the x, t and context that a host's UNet was `record`ed
with, and the same picture, and tells how far the residuals and what the UNet answers are apart.

Every host runs the same checkpoint and has both control files and the extension `webui_watch` beside this
one, with CONTROLSTACK_WATCH=FOLDER: it keeps there what a job hands to the VAE. One VAE, in floats, makes
pictures of that here, so that no host's rounding to 8 bits is compared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from control_server import png
from diffusers import ControlNetModel
from numpy.typing import NDArray
from skimage import data

SIZE = 256
JOB = dict(
    prompt="a cat, keep the latents",
    negative_prompt="dog",
    width=SIZE,
    height=SIZE,
    steps=4,
    seed=1,
    cfg_scale=7,
    sampler_name="Euler",
)
PHOTO, OTHER = png(data.astronaut()[:SIZE, :SIZE]), png(data.coffee()[:SIZE, :SIZE])
HALF = png(np.repeat(np.array([[255, 0]], np.uint8), SIZE, 0).repeat(SIZE // 2, 1))
HIRES = dict(
    steps=2,
    enable_hr=True,
    hr_scale=1.5,
    hr_second_pass_steps=2,
    hr_upscaler="Latent",
    denoising_strength=0.7,
    hr_cfg=JOB["cfg_scale"],
    hr_additional_modules=["Use same choices"],
)
"""Forge and reForge guide the second pass by `hr_cfg`, 1 unless named; Forge's API fails without the last."""
RECORDED = ("call", "output", "control0")


def cases(first: str, second: str) -> dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Units and fields of each request."""
    one = {"enabled": True, "module": "none", "model": first, "image": PHOTO}
    two = [one, {**one, "model": second, "image": OTHER, "weight": 0.7}]
    modes = ("Balanced", "My prompt is more important", "ControlNet is more important")
    late = {**one, "image": OTHER, "guidance_start": 0.5}
    strong = {"weight": 2, "control_mode": modes[1]}
    mixed = [{**unit, "control_mode": mode} for unit, mode in zip([*two, late], modes, strict=True)]
    return {
        "plain": ([], {}),
        "one unit": ([one], {}),
        "two units": (two, {}),
        "three units, the third from 0.5": ([*two, late], {}),
        "three units in three modes, the third from 0.5": (mixed, {}),
        modes[1]: ([{**one, "control_mode": modes[1]}], {}),
        modes[2]: ([{**one, "control_mode": modes[2]}], {}),
        f"{modes[1]}, two units of weight 2": ([{**unit, **strong} for unit in two], {}),
        f"{modes[2]}, weight 2": ([{**one, "weight": 2, "control_mode": modes[2]}], {}),
        "window 0 to 0.5": ([{**one, "guidance_end": 0.5}], {}),
        "window 0.5 to 1": ([{**one, "guidance_start": 0.5}], {}),
        "region": ([{**one, "effective_region_mask": HALF}], {}),
        "plain, hires fix": ([], HIRES),
        "one unit, hires fix": ([one], HIRES),
    }


def ask(url: str, folder: str, out: str, first: str, second: str, *only: str) -> None:
    """All cases, or those named in their order. What the file has is not asked again."""
    latents: dict[str, NDArray[Any]] = dict(np.load(out)) if Path(out).exists() else {}
    asked = cases(first, second)
    for name in only or asked:
        if name in latents:
            continue
        units, fields = asked[name]
        scripts = {"alwayson_scripts": {"ControlNet": {"args": units}}} if units else {}
        body = {**JOB, **scripts, **fields}
        answer = httpx.post(f"{url}/sdapi/v1/txt2img", json=body, timeout=1200, trust_env=False)
        answer.raise_for_status()
        latents[name] = torch.load(Path(folder) / "latents.pt").numpy()
        np.savez(out, **latents)
        sys.stderr.write(f"{name}: {answer.elapsed.total_seconds():.0f} s\n")


def record(url: str, folder: str, out: str, net: str) -> None:
    """One step, the files of which are kept as `out` and its contents' names."""
    units = cases(net, net)["one unit"][0]
    body = {**JOB, "prompt": "a cat, record me", "steps": 1}
    scripts = {"ControlNet": {"args": units}}
    asked = {**body, "alwayson_scripts": scripts}
    answer = httpx.post(f"{url}/sdapi/v1/txt2img", json=asked, timeout=1200, trust_env=False)
    answer.raise_for_status()
    for name in RECORDED:
        (Path(folder) / f"{name}.pt").rename(f"{out}_{name}.pt")


@torch.no_grad()
def one_call(checkpoint: str, control: str, *records: str) -> Iterator[str]:
    """Of each record: the largest difference of a residual and of the answer, and the largest of each."""
    from controlstack import preprocess
    from controlstack.catalog import Catalog
    from controlstack.hosts import unet_diffusers
    from controlstack.hosts.embedded import single_file
    from controlstack.joints import Call
    from controlstack.plan import resolve
    from controlstack.session import Session
    from controlstack.sources import Job
    from controlstack.unit import parse
    from controlstack.weights import Loaded

    unet = single_file.load(Path(checkpoint))[0]["unet"].eval()
    file = Path(control)
    units = cases(file.stem, file.stem)["one unit"][0]
    job, folder = Job(SIZE, SIZE, unet_diffusers.base_of(unet)), Catalog([file.parent])
    given: dict[str, torch.Tensor] = {}

    def keep(_: Any, __: Any, answer: tuple[Sequence[torch.Tensor], torch.Tensor]) -> None:
        given.update({f"skip {i}": skip for i, skip in enumerate(answer[0])} | {"middle": answer[1]})

    def on_call(*inputs: Any) -> Any:
        *tensors, shadow = inputs
        return session.step(Call(*tensors, rows=unet_diffusers.rows(2, 1), shadow=shadow))

    yield "| host | residuals, of at most | answer of the UNet, of at most |"
    yield "|---|---|---|"
    for path in records:
        call, output, theirs = (torch.load(f"{path}_{name}.pt") for name in RECORDED)
        session = Session(Loaded(), preprocess.Cache())
        session.plans = [resolve(0, parse(unit), job, folder) for unit in units]
        session.prepare()
        session.begin(SIZE, SIZE, unet_diffusers.LiveUNet(unet), hires=False)
        inputs = call["x"], call["timesteps"], call["context"]
        handle = torch.nn.modules.module.register_module_forward_hook(
            lambda module, *rest: keep(module, *rest) if isinstance(module, ControlNetModel) else None
        )
        with handle, unet_diffusers.attach(unet, on_call, session.joints):
            ours = unet(*inputs).sample
        residuals = [(given[name], theirs[name]) for name in given]
        cells = [_furthest(*zip(*residuals, strict=True)), _furthest([ours], [output])]
        yield f"| {Path(path).name} | {' | '.join(cells)} |"


def _furthest(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> str:
    apart = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    return f"{apart:.1e} of {max(float(a.abs().max()) for a in ours):.2g}"


def compare(checkpoint: str, *files: str) -> Iterator[str]:
    """Of each case all were asked: what control changes on each host, in levels, and which two differ most.

    Relative error: the norm of the difference of two changes over that of the first, of pictures and of
    latents, which hires fix has decoded before they are kept.
    """
    from controlstack.hosts.embedded import single_file

    vae = single_file.load(Path(checkpoint))[0]["vae"].eval()
    hosts = {Path(file).stem: dict(np.load(file)) for file in files}
    pictures = {
        host: {name: _decoded(vae, x) for name, x in latents.items()} for host, latents in hosts.items()
    }
    pairs = list(combinations(hosts, 2))
    yield f"| case | {' | '.join(f'change on {host}' for host in hosts)} | furthest apart | in latents |"
    yield "|---" * (3 + len(hosts)) + "|"
    for name in next(iter(hosts.values())):
        if any(name not in latents for latents in hosts.values()):
            continue
        if name.startswith("plain"):
            apart, *pair = max((_levels(pictures[a][name], pictures[b][name]), a, b) for a, b in pairs)
            yield f"| {name} |{' |' * len(hosts)} {apart:.2g} levels, {' and '.join(pair)} | |"
            continue
        bare = "plain, hires fix" if "hires" in name else "plain"
        seen, hidden = (
            {host: found[name] - found[bare] for host, found in every.items()} for every in (pictures, hosts)
        )
        cells = [f"{np.abs(change).mean():.2f}" for change in seen.values()]
        for changes in (seen,) if "hires" in name else (seen, hidden):
            apart, *pair = max((_apart(changes[a], changes[b]), a, b) for a, b in pairs)
            cells.append(f"{apart:.3%}, {' and '.join(pair)}")
        cells += [""] * (len(hosts) + 2 - len(cells))
        yield f"| {name} | {' | '.join(cells)} |"


def _levels(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference of two pictures."""
    return float(np.abs(one - other).max())


@torch.no_grad()
def _decoded(vae: Any, latents: NDArray[Any]) -> NDArray[Any]:
    """Levels from 0 to 255, not rounded. After hires fix hosts have decoded already."""
    made = torch.from_numpy(latents)
    if made.shape[1] != 3:
        made = vae.decode(made / vae.config.scaling_factor).sample
    found: NDArray[Any] = (127.5 * (made.clamp(-1, 1) + 1)).numpy()
    return found


def _apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


def main(what: str, *rest: str) -> None:
    if what in ("ask", "record"):
        {"ask": ask, "record": record}[what](*rest)
        return
    for row in {"compare": compare, "unet": one_call}[what](*rest):
        print(row, flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
