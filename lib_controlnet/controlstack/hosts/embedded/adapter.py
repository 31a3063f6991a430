"""The embedded host as the extension sees it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from modules import paths, shared
from torch import Tensor, nn

from controlstack.hosts import unet_diffusers
from controlstack.hosts.webui import WebUI
from controlstack.joints import Call, Residuals, Row, RowKind
from controlstack.layout import Base
from controlstack.session import Session


@dataclass(frozen=True)
class LiveUNet:
    """The services of a diffusers UNet."""

    unet: nn.Module

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    def weight(self, name: str) -> Tensor | None:
        return self.unet.state_dict().get(name)


class Embedded(WebUI):
    """diffusers' pipelines behind A1111's script contract."""

    def option(self, key: str, default: object) -> Any:
        return shared.opts.data.get(key, default)

    def flag(self, key: str) -> Any:
        return getattr(shared.cmd_opts, key, None)

    def model_folders(self) -> Sequence[Path]:
        given = self.flag("controlnet_dir")
        return [*([Path(given)] if given else []), Path(paths.models_path) / "ControlNet"]

    def base(self, p: Any) -> Base:
        return base_of(p.sd_model.unet)

    def services(self, p: Any) -> LiveUNet:
        return LiveUNet(p.sd_model.unet)

    def attach(self, p: Any, session: Session) -> ExitStack:
        evaluation = 0

        def on_call(x: Tensor, t: Tensor, context: Tensor, y: Tensor | None) -> Residuals | None:
            nonlocal evaluation
            total = p.sd_model.pipe.num_timesteps
            span = (evaluation / total, (evaluation + 1) / total)
            evaluation += 1
            return session.step(Call(x, t, context, y, rows(len(x), p.batch_size), span, hires=p.is_hr_pass))

        return unet_diffusers.attach(p.sd_model.unet, on_call)


def rows(count: int, pictures: int) -> tuple[Row, ...]:
    """diffusers' order: the negative prompt's rows, when there are any, then the positive prompt's."""
    kinds = [RowKind.UNCOND] * (count - pictures) + [RowKind.COND] * pictures
    return tuple(Row(i % pictures, kind) for i, kind in enumerate(kinds))


def base_of(unet: nn.Module) -> Base:
    """What a diffusers UNet is."""
    config = unet.config
    vector = getattr(unet, "add_embedding", None)
    return Base(
        width=config.block_out_channels[0],
        context=config.cross_attention_dim,
        vector=None if vector is None else vector.linear_1.in_features,
        blocks=len(unet_diffusers.encoder_blocks(unet)),
    )
