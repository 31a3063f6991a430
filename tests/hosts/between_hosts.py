"""The same requests to several hosts: what control changes in their pictures, before anything is rounded.

    python tests/hosts/between_hosts.py ask URL FOLDER one.npz NET NET [PART_OF_A_CASE ...]
    python tests/hosts/between_hosts.py compare CHECKPOINT one.npz other.npz … > table.md

Every host runs the same checkpoint and has both control files and the extension `webui_watch` beside this
one, with CONTROLSTACK_WATCH=FOLDER: it keeps there what a job hands to the VAE. One VAE, in floats, makes
pictures of that here, so that no host's rounding to 8 bits is compared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from control_server import png
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
    hr_additional_modules=["Use same choices"],
)
"""Forge's API fails without the last."""


def cases(first: str, second: str) -> dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Units and fields of each request."""
    one = {"enabled": True, "module": "none", "model": first, "image": PHOTO}
    two = [one, {**one, "model": second, "image": OTHER, "weight": 0.7}]
    modes = ("Balanced", "My prompt is more important", "ControlNet is more important")
    late = {**one, "image": OTHER, "guidance_start": 0.5}
    mixed = [{**unit, "control_mode": mode} for unit, mode in zip([*two, late], modes, strict=True)]
    return {
        "plain": ([], {}),
        "one unit": ([one], {}),
        "two units": (two, {}),
        "three units, the third from 0.5": ([*two, late], {}),
        "three units in three modes, the third from 0.5": (mixed, {}),
        modes[1]: ([{**one, "control_mode": modes[1]}], {}),
        modes[2]: ([{**one, "control_mode": modes[2]}], {}),
        "window 0 to 0.5": ([{**one, "guidance_end": 0.5}], {}),
        "region": ([{**one, "effective_region_mask": HALF}], {}),
        "plain, hires fix": ([], HIRES),
        "one unit, hires fix": ([one], HIRES),
    }


def ask(url: str, folder: str, out: str, first: str, second: str, *only: str) -> None:
    """Cases that the file has are not asked again."""
    latents: dict[str, NDArray[Any]] = dict(np.load(out)) if Path(out).exists() else {}
    for name, (units, fields) in cases(first, second).items():
        if name in latents or not any(part in name for part in only or [""]):
            continue
        scripts = {"alwayson_scripts": {"ControlNet": {"args": units}}} if units else {}
        body = {**JOB, **scripts, **fields}
        answer = httpx.post(f"{url}/sdapi/v1/txt2img", json=body, timeout=1200, trust_env=False)
        answer.raise_for_status()
        latents[name] = torch.load(Path(folder) / "latents.pt").numpy()
        np.savez(out, **latents)
        sys.stderr.write(f"{name}: {answer.elapsed.total_seconds():.0f} s\n")


def compare(checkpoint: str, *files: str) -> Iterator[str]:
    """Of each case: what control changes on each host, in levels, and how far two hosts are apart.

    Relative error: the norm of the difference of two changes over that of the first, of pictures and of
    latents.
    """
    from controlstack.hosts.embedded import single_file

    vae = single_file.load(Path(checkpoint))[0]["vae"].eval()
    hosts = {Path(file).stem: dict(np.load(file)) for file in files}
    pictures = {
        host: {name: _decoded(vae, x) for name, x in latents.items()} for host, latents in hosts.items()
    }
    pairs = list(combinations(hosts, 2))
    columns = [*(f"change on {host}" for host in hosts), *(f"{a} and {b}" for a, b in pairs)]
    yield f"| case | {' | '.join(columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for name in next(iter(hosts.values())):
        if name.startswith("plain"):
            apart = [f"{np.abs(pictures[a][name] - pictures[b][name]).max():.2g}" for a, b in pairs]
            yield f"| {name} | {' | '.join(['', *([''] * (len(hosts) - 1)), *apart])} |"
            continue
        bare = "plain, hires fix" if "hires" in name else "plain"
        seen, hidden = (
            {host: found[name] - found[bare] for host, found in every.items()} for every in (pictures, hosts)
        )
        cells = [f"{np.abs(change).mean():.1f}" for change in seen.values()]
        for a, b in pairs:
            cells.append(f"{_apart(seen[a], seen[b]):.2%}, latents {_apart(hidden[a], hidden[b]):.2%}")
        yield f"| {name} | {' | '.join(cells)} |"


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
    if what == "ask":
        ask(*rest)
        return
    for row in compare(*rest):
        print(row)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
