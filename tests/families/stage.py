"""A tiny UNet at one step of a job of two pictures, with units from the words of a request to the output."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from controlstack import plan, preprocess
from controlstack.catalog import Catalog
from controlstack.evaluation import Evaluation
from controlstack.hosts import unet_diffusers
from controlstack.joints import Call, Row, RowKind, Shadow
from controlstack.networks import Networks
from controlstack.session import Session
from controlstack.sources import Job
from controlstack.unit import parse
from controlstack.weights import Loaded

SIZE = 64
ROWS = tuple(Row(image, kind) for kind in (RowKind.UNCOND, RowKind.COND) for image in range(2))
LAYOUTS = ("sd1", "sdxl")
STILL: dict[str, dict[str, Any]] = {
    "weight 0": dict(weight=0),
    "outside the window": dict(guidance_start=0.5),
    "empty region": dict(effective_region_mask=np.zeros((SIZE, SIZE), np.uint8)),
    "another pass": dict(hr_option="High res only"),
}
"""What a unit says that must not act, in the first pass at its first step."""
TINY = {
    module.FAMILY: module
    for module in (
        importlib.import_module(f"tiny.{file.stem}")
        for file in sorted((Path(__file__).parent / "tiny").glob("*.py"))
    )
}
"""The families' tiny nets: each module gives FAMILY, tensors(layout, seed) if it has files and, if units need
more, UNIT and a PREPROCESSOR of its own; LAYOUTS where there are fewer (none beside a diffusers that cannot
make them), and beside(layout), more files by their names."""
SETS: dict[str, Any] = TINY | {
    name: variant for tiny in TINY.values() for name, variant in getattr(tiny, "VARIANTS", {}).items()
}
"""These, and variants of their files: the same by other names, and where it is needed how a file's name ends
(ENDING), and a FELLOW: a unit that stands behind the others."""
KINDS = [(kind, layout) for kind, tiny in SETS.items() for layout in getattr(tiny, "LAYOUTS", LAYOUTS)]


class Live(unet_diffusers.LiveUNet):
    """A UNet that learned diffusers' usual noise, with a VAE that means over 8 x 8 px and makes much of what
    differs a little."""

    def encode(self, picture: Tensor) -> Tensor:
        cells = nn.functional.avg_pool2d(picture, 8) * 200 - 100
        return torch.cat([cells, cells[:, :1]], dim=1)


class Stage:
    """A UNet, and two files of a family or variant, net0 and net1."""

    def __init__(self, folder: Path, layout: str, kind: str) -> None:
        self.layout, self.tiny = layout, SETS[kind]
        self.ending: str = getattr(self.tiny, "ENDING", "")
        fellow = getattr(self.tiny, "FELLOW", None)
        self.fellows: tuple[dict[str, Any], ...] = (fellow,) if fellow else ()
        self.unet = unet(layout)
        self.files = hasattr(self.tiny, "tensors")
        for seed in range(2 if self.files else 0):
            nets.save(folder / f"net{seed}{self.ending}.safetensors", self.tiny.tensors(layout, seed))
        for name, tensors in getattr(self.tiny, "beside", lambda _: {})(layout).items():
            nets.save(folder / name, tensors)
        self.catalog, self.models = Catalog([folder]), Loaded(3)
        self.networks: Networks | None = None
        self.calls = self.seed = 0

    def unit(self, seed: int = 0, **fields: Any) -> dict[str, Any]:
        extra = getattr(self.tiny, "UNIT", {})
        unit = {"model": "net0", "module": "none", "image": picture(seed), **extra, **fields}
        return {**unit, "model": unit["model"] + self.ending if self.files else "None"}

    def begin(self, *units: dict[str, Any], hires: bool = False) -> Session:
        base = unet_diffusers.base_of(self.unet)
        job = Job(width=SIZE, height=SIZE, base=base, hires=True, seed=self.seed)
        with pytest.MonkeyPatch.context() as shelf:
            if own := getattr(self.tiny, "PREPROCESSOR", None):
                shelf.setitem(preprocess._shelf, own.name, own)
            plans = [
                plan.resolve(i, parse(unit), job, self.catalog)
                for i, unit in enumerate((*units, *self.fellows))
            ]
        session = Session(self.models, preprocess.Cache(networks=self.networks), plans)
        session.prepare()
        session.begin(SIZE, SIZE, Live(self.unet, DDIMScheduler()), hires=hires)
        return session

    def output(self, *units: dict[str, Any], rows: Sequence[int] = (0, 1, 2, 3)) -> Tensor:
        """What the UNet puts out for these rows, with a count of the modules beside it that were called."""
        session = self.begin(*units)
        return self.evaluate(session, rows)

    def evaluate(
        self, session: Session, rows: Sequence[int] = (0, 1, 2, 3), *, hires: bool = False
    ) -> Tensor:
        x, t, context, added = inputs(self.layout)
        at = list(rows)
        chosen = None if added is None else {name: value[at] for name, value in added.items()}

        def on_call(
            x: Tensor, t: Tensor, context: Tensor, y: Tensor | None, shadow: Shadow
        ) -> Evaluation | None:
            named = tuple(ROWS[i] for i in at)
            return session.step(Call(x, t, context, y, named, hires=hires, shadow=shadow))

        with self._counting(), torch.no_grad(), unet_diffusers.attach(self.unet, on_call, session.joints):
            return self.unet(x[at], t[at], context[at], added_cond_kwargs=chosen, return_dict=False)[0]

    @contextmanager
    def _counting(self) -> Iterator[None]:
        own = set(self.unet.modules())
        self.calls = 0

        def count(module: nn.Module, _: object) -> None:
            self.calls += module not in own

        hook = nn.modules.module.register_module_forward_pre_hook(count)
        try:
            yield
        finally:
            hook.remove()


@cache
def unet(layout: str) -> Any:
    return nets.unet(nets.LAYOUTS[layout])


@cache
def inputs(layout: str) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor] | None]:
    """x, t, the prompt and, for SDXL, the pooled prompt with the sizes; different in all rows."""
    torch.manual_seed(0)
    rows, cells = len(ROWS), SIZE // 8
    context = torch.randn(rows, 7, nets.LAYOUTS[layout]["cross_attention_dim"])
    added = None
    if layout == "sdxl":
        sizes = torch.tensor([[128.0, 128, 0, 0, 128, 128]] * rows)
        added = {"text_embeds": torch.randn(rows, 24), "time_ids": sizes}
    return torch.randn(rows, 4, cells, cells), torch.tensor([700.0] * rows), context, added


def picture(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
