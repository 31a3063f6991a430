"""The joints on the LDM and sgm `UNetModel` (A1111), by module hooks: `forward` stays whoever's it is.

Exact: the decoder's input is a fresh `cat([h, skip])`, so adding to its last channels is adding to the skip.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from controlstack.hosts import OnCall
from controlstack.joints import Residuals

_POSITIONAL = ("x", "timesteps", "context", "y")


def attach(unet: Any, on_call: OnCall) -> ExitStack:
    """Ask `on_call` at every evaluation and add what it answers. Closing the returned stack takes all hooks
    out."""
    now = Residuals()

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal now
        now = Residuals()  # an exception below leaves nothing behind for a later call
        given = dict(zip(_POSITIONAL, args, strict=False)) | kwargs
        x = given["x"][:, : module.out_channels]
        now = on_call(x, given["timesteps"], given["context"], given.get("y")) or Residuals()

    def add_skip(block: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def before_decoder(module: nn.Module, args: tuple[Any, ...]) -> None:
            if now.skips:
                skip = now.skips[block]
                args[0][:, -skip.shape[1] :] += _like(skip, args[0])

        return before_decoder

    def feature(block: int) -> Tensor | None:
        return (now.encoder or {}).get(block)

    def add_output(find: Callable[[], Tensor | None]) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def after(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            found = find()
            return None if found is None else output + _like(found, output)

        return after

    hooks = ExitStack()
    hooks.callback(unet.register_forward_pre_hook(before, with_kwargs=True).remove)
    hooks.callback(unet.middle_block.register_forward_hook(add_output(lambda: now.middle)).remove)
    last = len(unet.output_blocks) - 1
    for j, decoder in enumerate(unet.output_blocks):
        hooks.callback(decoder.register_forward_pre_hook(add_skip(last - j)).remove)
    for i, encoder in enumerate(unet.input_blocks):
        hooks.callback(encoder.register_forward_hook(add_output(partial(feature, i))).remove)
    return hooks


def _like(feature: Tensor, target: Tensor) -> Tensor:
    """The residual in the target's dtype and size: at odd sizes the host resizes what it concatenates."""
    if feature.shape[-2:] != target.shape[-2:]:
        feature = F.interpolate(feature, size=target.shape[-2:], mode="nearest")
    return feature.to(target)
