"""Our pictures beside the incumbent's: the same host, seed, control files and requests, two processes.

    python tests/hosts/side_by_side.py --models FOLDER                     writes the control files
    python tests/hosts/side_by_side.py OUR_URL INCUMBENT_URL > table.md    asks both

Both processes are the same WebUI with the same tiny checkpoint (`webui_server.py` says which), one with this
extension and one with sd-webui-controlnet, whose loader has to be told to read the width of a ControlNet from
its tensors (`config['model_channels']`): it takes 320 for granted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nets
import numpy as np
from control_server import pixels, png
from numpy.typing import NDArray
from skimage import color, data

SIZE = 128
JOB = dict(
    prompt="a house", negative_prompt="dark", width=SIZE, height=SIZE, steps=4, seed=1, sampler_name="Euler"
)
PHOTO = data.astronaut()[:256, :256]
WIDE = data.astronaut()[:160, :256]
DEPTH = np.repeat((255 * color.rgb2gray(data.astronaut()[:256, 128:384])).astype(np.uint8)[..., None], 3, 2)
DISC = ((np.indices((SIZE, SIZE)) - SIZE / 2) ** 2).sum(0) < (SIZE / 3) ** 2
HIRES = dict(enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", denoising_strength=0.7)
IMG2IMG = dict(route="img2img", init_images=[png(WIDE)], denoising_strength=0.7)
HOLE = 255 * DISC.astype(np.uint8).repeat(2, 0).repeat(2, 1)
INPAINT = IMG2IMG | dict(init_images=[png(PHOTO)], mask=png(HOLE), inpaint_full_res=False)
REGION = 255 * np.repeat(DISC[..., None], 3, 2).astype(np.uint8)
MODES = ("Balanced", "My prompt is more important", "ControlNet is more important")
RESIZES = ("Just Resize", "Crop and Resize", "Resize and Fill")


def unit(model: str = "net0", picture: NDArray[np.uint8] = PHOTO, **fields: Any) -> dict[str, Any]:
    """All that a default could make different is said."""
    said = dict(
        enabled=True, module="canny", threshold_a=100, threshold_b=200, processor_res=SIZE, weight=1.0
    )
    return {**said, "model": model, "image": png(picture), **fields}


def ready(model: str = "net1", picture: NDArray[np.uint8] = DEPTH, **fields: Any) -> dict[str, Any]:
    """A unit with a finished map."""
    return unit(model, picture, module="none", **fields)


CANNY, TILE = unit(), unit(module="tile_resample", threshold_a=1, threshold_b=0)
KINDS = {
    "canny": CANNY,
    "depth": ready(),
    "soft edge": ready("net2"),
    "tile": TILE,
    "ip2p": ready("net1", PHOTO),
    "shuffle": ready("net0_shuffle", PHOTO),
}
"""Neural kinds with ready maps."""
GLOBAL = unit(module="inpaint_global_harmonious", image=None)
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "no unit": ([], {}),
    **{
        f"{kind}, {mode}": ([one | {"control_mode": mode}], {})
        for kind, one in KINDS.items()
        for mode in MODES
    },
    "inpaint_global_harmonious, own picture and mask": (
        [GLOBAL | {"image": png(PHOTO), "mask": png(HOLE)}],
        {},
    ),
    **{
        f"img2img, inpaint_global_harmonious, {mode}": ([GLOBAL | {"control_mode": mode}], INPAINT)
        for mode in MODES
    },
    **{f"img2img, {kind}": ([one], IMG2IMG) for kind, one in KINDS.items()},
    "img2img, two units and a region": ([CANNY, ready(effective_region_mask=png(REGION))], IMG2IMG),
    **{f"depth 256x160, {resize}": ([ready(picture=WIDE, resize_mode=resize)], {}) for resize in RESIZES},
    **{f"canny 256x160, {resize}": ([unit(picture=WIDE, resize_mode=resize)], {}) for resize in RESIZES},
    **{
        f"canny 256x160, {resize}, pixel perfect": (
            [unit(picture=WIDE, resize_mode=resize, pixel_perfect=True)],
            {},
        )
        for resize in RESIZES
    },
    "canny, weight 0.4": ([unit(weight=0.4)], {}),
    "region mask": (
        [ready(effective_region_mask=png(REGION))],
        {},
    ),
    "soft region mask": ([ready(effective_region_mask=png(DEPTH))], {}),
    "advanced weighting": ([ready(advanced_weighting=[0.1 * i for i in range(13)])], {}),
    "advanced weighting, soft": (
        [ready(advanced_weighting=[0.1 * i for i in range(13)], control_mode=MODES[1])],
        {},
    ),
    "two units": ([CANNY, ready()], {}),
    "three units": ([CANNY, ready(weight=0.5), ready("net2", PHOTO, control_mode=MODES[2])], {}),
    "window 0.25 to 1": ([ready(guidance_start=0.25)], {}),
    "window 0 to 0.5": ([ready(guidance_end=0.5)], {}),
    "late window 0.25 to 1": ([ready(guidance_start=0.25)], {"late": True}),
    "late window 0 to 0.5": ([ready(guidance_end=0.5)], {"late": True}),
    "late window 0.25 to 0.75, Heun": (
        [ready(guidance_start=0.25, guidance_end=0.75)],
        {"late": True, "sampler_name": "Heun"},
    ),
    "late window 0.25 to 0.75, hires": (
        [ready(guidance_start=0.25, guidance_end=0.75)],
        {"late": True} | HIRES,
    ),
    **{
        f"hires, {option}": ([ready(hr_option=option)], HIRES)
        for option in ("Both", "Low res only", "High res only")
    },
    "hires, canny": ([CANNY], HIRES),
    "batch 2x2": ([ready()], dict(batch_size=2, n_iter=2)),
    "img2img, canny, init picture": ([unit(image=None)], IMG2IMG),
    "img2img, init picture, init cropped": ([unit(image=None)], IMG2IMG | dict(resize_mode=1)),
    "inpaint, canny": ([unit(image=None)], INPAINT),
    "inpaint only masked, canny": ([unit(image=None)], INPAINT | dict(inpaint_full_res=True)),
    "inpaint inverted, only masked, depth": (
        [ready()],
        INPAINT | dict(inpaint_full_res=True, inpainting_mask_invert=1),
    ),
    "Heun": ([ready()], dict(sampler_name="Heun")),
    "DDIM": ([ready()], dict(sampler_name="DDIM")),
    "AND": ([ready(control_mode=MODES[2])], dict(prompt="a house AND a red door :0.7")),
    "long prompt": ([ready(control_mode=MODES[2])], dict(prompt="a house, " * 40)),
}


def write_models(folder: Path) -> None:
    """ControlNets for a base of width 32 and context 768, with the hint encoder's published widths, which the
    incumbent takes for granted too."""
    nets.HINT = (16, 32, 96, 256)
    for seed in range(3):
        tensors = nets.in_ldm(nets.controlnet(nets.SD1, seed=seed).state_dict(), "control_model.")
        for name in [f"net{seed}", *(["net0_shuffle"] if seed == 0 else [])]:
            nets.save(folder / f"{name}.safetensors", {key: t.clone() for key, t in tensors.items()})


def ask(url: str, units: list[dict[str, Any]], fields: dict[str, Any]) -> list[NDArray[np.uint8]]:
    """`late` asks ours for the incumbent's window."""
    fields = dict(fields)
    if fields.pop("late", False):
        fields["override_settings"] = {"control_net_late_window": True}
    route = fields.pop("route", "txt2img")
    scripts = {"alwayson_scripts": {"ControlNet": {"args": units}}} if units else {}
    answer = httpx.post(
        f"{url}/sdapi/v1/{route}", json={**JOB, **scripts, **fields}, timeout=1200, trust_env=False
    )
    answer.raise_for_status()
    return [pixels(picture)[..., :3] for picture in answer.json()["images"]]


def rows(ours: str, theirs: str, only: list[str]) -> Iterator[str]:
    yield "| request | largest difference of the pictures | px that differ by more than 1 | of the maps |"
    yield "|---|---|---|---|"
    for name, (units, fields) in CASES.items():
        if not any(part in name for part in only):
            continue
        bare = {key: value for key, value in fields.items() if key != "late"}
        one, other = ask(ours, units, fields), ask(theirs, units, bare)
        if "route" in fields:  # what A1111 encodes depends on what the job before it drew at random
            one, other = ask(ours, units, fields), ask(theirs, units, bare)
        count = fields.get("batch_size", 1) * fields.get("n_iter", 1)
        pictures = np.abs(np.stack(one[:count]).astype(int) - np.stack(other[:count]))
        shown = zip(one[count:], other[count:], strict=False)
        maps = [_unlike(a, b) for a, b in shown]
        counted = "" if len(one) == len(other) else f", {len(one) - count} against {len(other) - count} maps"
        share = (pictures.max(-1) > 1).mean()
        yield f"| {name} | {pictures.max()} | {share:.2%} | {', '.join(maps)}{counted} |"


def _unlike(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> str:
    if one.shape != other.shape:
        return f"{one.shape} against {other.shape}"
    off = (one != other).any(-1)
    return f"{np.abs(one.astype(int) - other).max()} in {off.sum()} px" if off.any() else "0"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("urls", nargs="*", metavar="URL")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--only", nargs="*", default=[""], help="parts of the names of cases")
    asked = parser.parse_args()
    if asked.models:
        write_models(asked.models)
    else:
        for row in rows(*asked.urls, asked.only):
            print(row, flush=True)


if __name__ == "__main__":
    sys.exit(main())
