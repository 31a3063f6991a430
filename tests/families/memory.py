"""How much memory units hold that share a file, by family: python tests/families/memory.py [FAMILY ...]

The tiny files of these tests, at widths at which they take tens of MiB. Each family gets a fresh process,
forked from one that has imported everything and done nothing. What units hold is the resident memory (RSS)
that Linux tells, beyond that of the UNet alone, with a pass begun and a step done.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ip_adapters
import nets
import torch
from stage import TINY, Stage, picture
from tiny import controlnet_xs, ip_adapter, lllite, style_adapter

from controlstack.embeddings import FACE, GREY_PATCHES, LAST_PATCHES, PATCHES, POOLED, RAW_FACE
from controlstack.session import Session

MIB = 1 << 20
WIDTHS = (96, 192, 384, 384)
"""Of the UNet; SD1.5's is 320 wide."""
WIDE = 1024
"""Of what encoders know of a picture."""


def widen() -> None:
    """Give all nets of this process their widths."""
    nets.SD1["block_out_channels"], nets.SDXL["block_out_channels"] = WIDTHS, WIDTHS[:3]
    nets.SDXL["cross_attention_dim"] = 768
    controlnet_xs.WIDTHS = (96, 192, 192, 192)
    lllite.EMBEDDING, lllite.MLP = 128, 256
    ip_adapter.WIDTH, style_adapter.WIDTH = 4 * WIDE, WIDE
    ip_adapters.WIDTH = 128


def patches(width: int, seed: int) -> torch.Tensor:
    return ip_adapters.noise(1, 4, width, seed=seed)


READY: dict[str, Callable[[int], dict[str, torch.Tensor]]] = {
    "IP-Adapter": lambda seed: {POOLED: patches(4 * WIDE, seed)[:, 0]},
    "T2I style adapter": lambda seed: {LAST_PATCHES: patches(WIDE, seed)},
    "FaceID": lambda seed: {FACE: patches(ip_adapters.WIDTH, seed)[:, 0]},
    "FaceID-plus": lambda seed: {
        FACE: patches(ip_adapters.WIDTH, seed)[:, 0],
        PATCHES: patches(ip_adapters.WIDTH, seed),
        GREY_PATCHES: patches(ip_adapters.WIDTH, 9),
    },
    "InstantID's face": lambda seed: {RAW_FACE: patches(512, seed)[:, 0]},
}
"""Embeddings where what looks at pictures in these tests is too narrow."""
FACES = {"FaceID": ("sd1", "face_id"), "FaceID-plus": ("sd1", "face_id_plus")}
FACES["InstantID's face"] = ("sdxl", "instant_id")
KINDS = [*(kind for kind, tiny in TINY.items() if hasattr(tiny, "tensors")), *FACES]


def staged(folder: Path, kind: str) -> Stage:
    """A stage with three files, net0 to net2, of a family."""
    layout, face = FACES.get(kind, ("sd1", ""))
    stage = Stage(folder, layout, "reference by both" if face else kind)
    if face:
        ip_adapters.saved(folder / "net0.safetensors", ip_adapters.adapter(stage.unet, face))
        stage.files = True
    for nth in (1, 2):
        shutil.copy(folder / "net0.safetensors", folder / f"net{nth}.safetensors")
    stage.catalog.refresh()
    return stage


def begun(stage: Stage, kind: str, *files: int) -> Session:
    """A pass of one unit for each of these files, each with a picture of its own, after a step."""
    units = []
    for seed, file in enumerate(files):
        own = {"ipadapter_input": [READY[kind](seed)]} if kind in READY else {"image": picture(seed)}
        units.append(stage.unit(seed, model=f"net{file}", **own))
        if kind in FACES:
            units[-1]["module"] = "none"
    session = stage.begin(*units)
    stage.evaluate(session)
    return session


def held(folder: str) -> int:
    """Resident bytes of this process, all that is free given back; of files in this folder all that is mapped
    (Linux drops such pages and reads them again as it likes), of programs' own nothing."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    size, counted = 0, ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split(maxsplit=5)
        if not name.endswith(":"):  # a mapping: its addresses, rights, offset, device, inode and file
            path = rest[4] if len(rest) > 4 else "["
            counted = "Rss:" if path[0] == "[" else "Size:" if path.startswith(folder) else ""
        elif name == counted:
            size += 1024 * int(rest[0])
    return size


def measure(kind: str) -> tuple[int, ...]:
    """In bytes: a file, its network, what one unit holds, three of one file, three of three files."""
    widen()
    with TemporaryDirectory() as folder:
        stage = staged(Path(folder), kind)
        stage.evaluate(stage.begin())
        plain, more = held(folder), []
        for files in ((0,), (0, 0, 0), (0, 1, 2)):
            session = begun(stage, kind, *files)
            more.append(held(folder) - plain)
            if files == (0,):
                (network,) = session._networks
        size = sum({t.data_ptr(): t.nbytes for t in network.state_dict().values()}.values())
        return (Path(folder) / "net0.safetensors").stat().st_size, size, *more


def table(kinds: Sequence[str]) -> Iterator[str]:
    yield "| MiB | file | its network | 1 unit | 3 units, 1 file | 3 units, 3 files |"
    yield "|---|---|---|---|---|---|"
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as fresh:
        for kind in kinds:
            cells = (f"{size / MIB:.1f}" for size in fresh.apply(measure, (kind,)))
            yield f"| {kind} | {' | '.join(cells)} |"


def main(*kinds: Any) -> None:
    torch.set_num_threads(1)
    for line in table(kinds or KINDS):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
