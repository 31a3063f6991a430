"""The joints on diffusers' `UNet2DConditionModel`, by module hooks: no pipeline and no `forward` is
replaced."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from controlstack.hosts import OnCall
from controlstack.joints import Call, Residuals, Row, RowKind
from controlstack.layout import Base

_POSITIONAL = ("sample", "timestep", "encoder_hidden_states")


def attach(unet: Any, on_call: OnCall) -> ExitStack:
    """Ask `on_call` at every evaluation and add what it answers. Closing the returned stack takes all hooks
    out."""
    encoder: dict[int, Tensor] = {}

    def before(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        kwargs = dict(zip(_POSITIONAL, args, strict=False)) | kwargs
        residuals = on_call(*_inputs(module, kwargs)) or Residuals()
        encoder.clear()
        encoder.update(residuals.encoder or {})
        if residuals.skips and residuals.middle is not None:
            _add(kwargs, residuals.skips, residuals.middle)
        return (), kwargs

    def add_feature(block: int) -> Callable[[nn.Module, Any, Any], Any]:
        def after(module: nn.Module, args: Any, output: Any) -> Any:
            if block not in encoder:
                return None
            head, *rest = output if isinstance(output, tuple) else (output,)
            head = head + encoder[block].to(head)
            return (head, *rest) if isinstance(output, tuple) else head

        return after

    hooks = ExitStack()
    hooks.callback(unet.register_forward_pre_hook(before, with_kwargs=True).remove)
    for block, module in enumerate(encoder_blocks(unet)):
        hooks.callback(module.register_forward_hook(add_feature(block)).remove)
    return hooks


def follow(
    unet: Any,
    step: Callable[[Call], Residuals | None],
    *,
    pictures: int,
    evaluations: Callable[[], int],
    hires: bool = False,
) -> ExitStack:
    """Have one pipeline call over `pictures` pictures ask `step` at each of its `evaluations()` of the
    UNet."""
    done = 0

    def on_call(x: Tensor, t: Tensor, context: Tensor, y: Tensor | None) -> Residuals | None:
        nonlocal done
        span = (done / evaluations(), (done + 1) / evaluations())
        done += 1
        return step(Call(x, t, context, y, rows(len(x), pictures), span, hires))

    return attach(unet, on_call)


def rows(count: int, pictures: int) -> tuple[Row, ...]:
    """diffusers' order: the negative prompt's rows, when there are any, then the positive prompt's."""
    kinds = [RowKind.UNCOND] * (count - pictures) + [RowKind.COND] * pictures
    return tuple(Row(i % pictures, kind) for i, kind in enumerate(kinds))


def base_of(unet: Any) -> Base:
    """What a diffusers UNet is."""
    vector = getattr(unet, "add_embedding", None)
    return Base(
        width=unet.config.block_out_channels[0],
        context=unet.config.cross_attention_dim,
        vector=None if vector is None else vector.linear_1.in_features,
        blocks=len(encoder_blocks(unet)),
    )


@dataclass(frozen=True)
class LiveUNet:
    """The services of a diffusers UNet."""

    unet: Any

    @cached_property
    def device(self) -> torch.device:
        return cast(torch.device, self.unet.device)

    @cached_property
    def dtype(self) -> torch.dtype:
        return cast(torch.dtype, self.unet.dtype)

    @property
    def checkpoint(self) -> Hashable:
        return id(self.unet)

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return dict(self.unet.named_parameters())

    def weight(self, name: str) -> Tensor | None:
        return self._weights.get(name)


def encoder_blocks(unet: Any) -> list[nn.Module]:
    """The module whose output is encoder block i, in the order of LDM's `input_blocks`."""
    blocks = [unet.conv_in]
    for level in unet.down_blocks:
        resnets, attentions = list(level.resnets), list(getattr(level, "attentions", []))
        blocks += attentions or resnets
        blocks += list(level.downsamplers or [])
    return blocks


def _inputs(unet: Any, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    sample = kwargs["sample"]
    rows = len(sample)
    t = torch.as_tensor(kwargs["timestep"], device=sample.device).reshape(-1).expand(rows)
    y = None
    added = kwargs.get("added_cond_kwargs") or {}
    if "time_ids" in added:  # SDXL: the vector that LDM hosts hand over ready-made
        sizes = unet.add_time_proj(added["time_ids"].flatten()).reshape(rows, -1)
        y = torch.cat([added["text_embeds"], sizes.to(added["text_embeds"].dtype)], dim=1)
    return sample[:, : unet.config.out_channels], t, kwargs["encoder_hidden_states"], y


def _add(kwargs: dict[str, Any], skips: tuple[Tensor, ...], middle: Tensor) -> None:
    """Add to what the pipeline or another extension already passes; both arguments are given or neither."""
    given, given_middle = (
        kwargs.get(f"{place}_additional_residual{s}") for place, s in (("down_block", "s"), ("mid_block", ""))
    )
    if given is not None and given_middle is not None:
        skips, middle = tuple(map(torch.add, given, skips)), given_middle + middle
    kwargs["down_block_additional_residuals"], kwargs["mid_block_additional_residual"] = skips, middle
