"""The joints on the `UNetModel` of LDM and sgm (A1111) and of the Forge family, by module hooks: `forward`
stays whoever's it is.

Exact: the decoder's input is a fresh `cat([h, skip])`, so adding to its last channels is adding to the skip.
A block is hooked at its first and last layer, because reForge runs the layers without calling the block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from controlstack.hosts import OnCall
from controlstack.hosts.module_hooks import Hooks, sites
from controlstack.joints import Block, Listener

_POSITIONAL = ("x", "timesteps", "context", "y")


def attach(unet: Any, on_call: OnCall, used: Collection[str]) -> ExitStack:
    """Ask `on_call` at every evaluation and put in what it answers at the `used` joints. Closing the returned
    stack takes all hooks out."""
    hooks = _Hooks(unet, on_call, used)
    hooks.keep(unet.register_forward_pre_hook(hooks.before, with_kwargs=True))
    hooks.keep(unet.register_forward_hook(hooks.after))
    hooks.timestep(unet.time_embed)
    encoder, middle, decoder = map(list, (unet.input_blocks, unet.middle_block, unet.output_blocks))
    if hooks.uses("residuals"):
        for i, layers in enumerate(encoder):
            hooks.keep(layers[-1].register_forward_hook(hooks.adding(partial(hooks.feature, i))))
        hooks.keep(middle[-1].register_forward_hook(hooks.adding(hooks.middle)))
        for skip, layers in enumerate(reversed(decoder)):
            hooks.keep(layers[0].register_forward_pre_hook(hooks.adding_skip(skip)))
    for block, layers in blocks(unet):
        hooks.block(block, layers)
        for site, layer in sites(block, layers):
            hooks.attention(site, layer)
    return hooks.installed


def blocks(unet: Any) -> Iterator[tuple[Block, list[nn.Module]]]:
    """The layers of each block, in the order in which they run."""
    parts = (("input", unet.input_blocks), ("middle", [unet.middle_block]), ("output", unet.output_blocks))
    for part, modules in parts:
        yield from ((Block(part, nth), list(layers)) for nth, layers in enumerate(modules))


class _Hooks(Hooks):
    def before(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]] | None:
        self.now = None  # an exception below leaves nothing behind for a later call
        given = dict(zip(_POSITIONAL, args, strict=False)) | kwargs
        x, width = given["x"], self.unet.out_channels

        def shadow(latents: Tensor, rows: Sequence[int], listener: Listener) -> None:
            again: dict[str, Any] = {n: v[list(rows)] for n, v in given.items() if isinstance(v, Tensor)}
            if "transformer_options" in given:  # Forge's: what other extensions add, and who the rows are
                again["transformer_options"] = {}
            self.listening(listener, latents, again, "x")

        self.now = self.on_call(x[:, :width], given["timesteps"], given["context"], given.get("y"), shadow)
        if self.now is None or not self.uses("prompt", "vector", "channels"):
            return None
        given["context"], vector = self.now.context()
        if vector is not None:
            given["y"] = vector
        if x.shape[1] > width:
            given["x"] = torch.cat([x[:, :width], self.now.channels(x[:, width:])], dim=1)
        return (), given

    def after(self, _: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        now, self.now = self.now, None
        return None if now is None or not self.uses("denoised") else now.output(output)

    def feature(self, block: int) -> Tensor | None:
        return (self.residuals.encoder or {}).get(block)

    def middle(self) -> Tensor | None:
        return self.residuals.middle

    def adding(self, find: Callable[[], Tensor | None]) -> Callable[..., Tensor | None]:
        def after(_: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            found = find()
            return None if found is None else output + _like(found, output)

        return after

    def adding_skip(self, nth: int) -> Callable[..., None]:
        def before(_: nn.Module, args: tuple[Any, ...]) -> None:
            if skips := self.residuals.skips:
                skip = skips[nth]
                args[0][:, -skip.shape[1] :] += _like(skip, args[0])

        return before


def _like(feature: Tensor, target: Tensor) -> Tensor:
    """The residual in the target's dtype and size: at odd sizes the host resizes what it concatenates."""
    if feature.shape[-2:] != target.shape[-2:]:
        feature = F.interpolate(feature, size=target.shape[-2:], mode="nearest")
    return feature.to(target)
