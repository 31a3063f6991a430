"""The joints on diffusers' `UNet2DConditionModel`, by module hooks: no pipeline and no `forward` is
replaced."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any, cast

import torch
from torch import Tensor, nn

from controlstack.evaluation import Evaluation
from controlstack.hosts import OnCall
from controlstack.hosts.module_hooks import Hooks, change_head, sites
from controlstack.joints import Block, Call, Listener, Prediction, Row, RowKind, Shadow, Site, noise_levels
from controlstack.layout import Base

_POSITIONAL = ("sample", "timestep", "encoder_hidden_states")


def attach(unet: Any, on_call: OnCall, used: Collection[str]) -> ExitStack:
    """Ask `on_call` at every evaluation and put in what it answers at the `used` joints. Closing the returned
    stack takes all hooks out."""
    hooks = _Hooks(unet, on_call, used)
    hooks.keep(unet.register_forward_pre_hook(hooks.before, with_kwargs=True))
    hooks.keep(unet.register_forward_hook(hooks.after))
    hooks.timestep(unet.time_embedding)
    for block, parts in blocks(unet):
        if block.part != "output" and hooks.uses("residuals"):
            hooks.keep(parts[-1].register_forward_hook(hooks.adding_feature(block)))
        hooks.block(block, parts)
        for site, layer in sites(block, parts):
            hooks.attention(site, layer)
    return hooks.installed


class _Hooks(Hooks):
    def before(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        self.now = None  # an exception below leaves nothing behind for a later call
        given = dict(zip(_POSITIONAL, args, strict=False)) | kwargs
        x, t, context, y = _inputs(self.unet, given)

        def shadow(latents: Tensor, rows: Sequence[int], listener: Listener) -> None:
            again = {name: _taken(value, rows, len(t)) for name, value in given.items()}
            self.listening(listener, latents, again | {"timestep": t[list(rows)]}, "sample")

        self.now = self.on_call(x, t, context, y, shadow)
        if self.now is None:
            return (), given
        changed = dict(given)
        if self.uses("prompt", "vector"):
            changed["encoder_hidden_states"], vector = self.now.context()
            if vector is not None:
                added = given["added_cond_kwargs"]
                pooled = vector[:, : added["text_embeds"].shape[1]]
                changed["added_cond_kwargs"] = {**added, "text_embeds": pooled}
        if self.uses("channels"):
            extra = self.now.channels(given["sample"][:, x.shape[1] :])
            changed["sample"] = torch.cat([x, extra], dim=1)
        residuals = self.residuals
        if residuals.skips and residuals.middle is not None:
            _add(changed, residuals.skips, residuals.middle)
        return (), changed

    def after(self, _: nn.Module, args: Any, output: Any) -> Any:
        now, self.now = self.now, None
        if now is None or not self.uses("denoised"):
            return None
        if isinstance(output, tuple):
            return (now.output(output[0]), *output[1:])
        output.sample = now.output(output.sample)
        return output

    def adding_feature(self, block: Block) -> Callable[..., Any]:
        """What no argument of the UNet can carry: features, and a middle without skips."""

        def after(_: nn.Module, args: Any, output: Any) -> Any:
            residuals = self.residuals
            if block.part == "input":
                feature = (residuals.encoder or {}).get(block.nth)
            else:
                feature = None if residuals.skips else residuals.middle
            return None if feature is None else change_head(output, feature)

        return after


def follow(
    unet: Any,
    step: Callable[[Call], Evaluation | None],
    used: Collection[str],
    *,
    pictures: int,
    evaluations: Callable[[], int],
    hires: bool = False,
) -> ExitStack:
    """Have one pipeline call over `pictures` pictures ask `step` at each of its `evaluations()` of the
    UNet."""
    done = 0

    def on_call(x: Tensor, t: Tensor, context: Tensor, y: Tensor | None, shadow: Shadow) -> Evaluation | None:
        nonlocal done
        span = (done / evaluations(), (done + 1) / evaluations())
        done += 1
        return step(Call(x, t, context, y, rows(len(x), pictures), span, hires, shadow))

    return attach(unet, on_call, used)


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
        blocks=sum(block.part == "input" for block, _ in blocks(unet)),
        extra=unet.config.in_channels - unet.config.out_channels,
    )


@dataclass(frozen=True)
class LiveUNet:
    """The services of a diffusers UNet; predictions need its scheduler, encoding its VAE."""

    unet: Any
    scheduler: Any = None
    vae: Any = None

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
    def sites(self) -> list[Site]:
        return [site for block, parts in blocks(self.unet) for site, _ in sites(block, parts)]

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return dict(self.unet.named_parameters())

    def weight(self, name: str) -> Tensor | None:
        return self._weights.get(name)

    @cached_property
    def _levels(self) -> Tensor:
        return noise_levels(self.scheduler.alphas_cumprod)

    def prediction(self, t: Tensor) -> Prediction:
        return Prediction.at(t, self._levels, self.scheduler.config.prediction_type)

    def encode(self, picture: Tensor) -> Tensor:
        with torch.no_grad():
            distribution = self.vae.encode(picture.to(self.device, self.vae.dtype) * 2 - 1).latent_dist
        return cast(Tensor, distribution.mode() * self.vae.config.scaling_factor)


def blocks(unet: Any) -> Iterator[tuple[Block, list[nn.Module]]]:
    """The modules of each block, by LDM's names and in the order in which they run.

    A resnet, with the transformer behind it, makes a block. A downsampler is a block of its own, an upsampler
    ends the last block of its level.
    """
    encoder = [[unet.conv_in]]
    for level in unet.down_blocks:
        encoder += _pairs(level)
        encoder += [[module] for module in level.downsamplers or ()]
    decoder: list[list[nn.Module]] = []
    for level in unet.up_blocks:
        decoder += _pairs(level)
        decoder[-1].extend(level.upsamplers or ())
    middle = unet.mid_block
    transformers = getattr(middle, "attentions", ())
    yield from ((Block("input", i), parts) for i, parts in enumerate(encoder))
    yield Block("middle", 0), [middle.resnets[0], *transformers, *middle.resnets[1:]]
    yield from ((Block("output", j), parts) for j, parts in enumerate(decoder))


def _pairs(level: Any) -> list[list[nn.Module]]:
    transformers = getattr(level, "attentions", None) or ()
    return [list(filter(None, pair)) for pair in zip_longest(level.resnets, transformers)]


def _taken(value: Any, rows: Sequence[int], of: int) -> Any:
    """The rows of an argument, if it has one for each of the UNet's."""
    if isinstance(value, Mapping):
        return {name: _taken(part, rows, of) for name, part in value.items()}
    whole = isinstance(value, Tensor) and value.ndim > 0 and len(value) == of
    return value[list(rows)] if whole else value


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
