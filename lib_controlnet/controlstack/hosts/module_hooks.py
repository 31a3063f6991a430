"""What LDM's and diffusers' UNets have in common: joints served by hooks on their modules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from controlstack.evaluation import Evaluation
from controlstack.hosts import OnCall
from controlstack.joints import Attention, Block, Listener, Residuals, Role, Site


class Hooks:
    """The hooks in one UNet, and who answers them now: an evaluation, or a listener in a shadow pass."""

    def __init__(self, unet: Any, on_call: OnCall, used: Collection[str]) -> None:
        self.unet, self.on_call, self.used = unet, on_call, used
        self.now: Evaluation | None = None
        self.listener: Listener | None = None
        self.installed = ExitStack()

    @property
    def residuals(self) -> Residuals:
        """What is added to the encoder's features at this moment."""
        added = None if self.now is None or self.listener else self.now.residuals
        return added or Residuals()

    def listening(self, listener: Listener, x: Tensor, arguments: dict[str, Any], name: str) -> None:
        """Run the UNet with these arguments on other latents "R 4 h w"; only `listener` answers.

        name: of the argument with the latents, whose further channels stay
        """
        arguments[name] = torch.cat([x.to(arguments[name]), arguments[name][:, x.shape[1] :]], dim=1)
        self.listener = listener
        try:
            self.unet.forward(**arguments)
        finally:
            self.listener = None

    def uses(self, *joints: str) -> bool:
        """Whether any control of the pass acts at one of these joints."""
        return not set(joints).isdisjoint(self.used)

    def timestep(self, layer: nn.Module) -> None:
        """Serve the module that embeds the timestep."""
        if self.uses("timestep"):
            self.keep(layer.register_forward_hook(self._timestep))

    def attention(self, site: Site, layer: Any) -> None:
        """Serve an attention layer with `heads` heads and the modules `to_q`, `to_k`, `to_v` and `to_out`,
        which every implementation of attention calls, whichever way it computes between them."""
        if self.uses("projected"):
            roles: tuple[tuple[Role, nn.Module], ...] = (
                ("q", layer.to_q),
                ("k", layer.to_k),
                ("v", layer.to_v),
            )
            for role, projection in roles:
                self.keep(projection.register_forward_pre_hook(self._projected(site, role)))
        if self.uses("attended", "overheard"):
            seen: dict[str, Tensor] = {}
            for name in ("to_q", "to_k", "to_v"):
                self.keep(getattr(layer, name).register_forward_hook(_recording(seen, name)))
            self.keep(layer.to_out[0].register_forward_pre_hook(self._attended(site, seen, layer)))

    def block(self, block: Block, parts: Sequence[Any]) -> None:
        """Serve a block; its parts run one after the other."""
        if self.uses("entering"):
            self.keep(parts[0].register_forward_pre_hook(self._entering(block)))
        if self.uses("leaving", "overheard_block"):
            self.keep(parts[-1].register_forward_hook(self._leaving(block)))

    def keep(self, handle: Any) -> None:
        """Have this hook taken out with the others."""
        self.installed.callback(handle.remove)

    def _timestep(self, _: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        change = self.now.timestep(output) if self.now and not self.listener else None
        return None if change is None else change_head(output, change)

    def _projected(self, site: Site, role: Role) -> Callable[..., Any]:
        def before(_: nn.Module, args: tuple[Any, ...]) -> Any:
            change = self.now.projected(site, role, args[0]) if self.now and not self.listener else None
            return None if change is None else change_head(args, change)

        return before

    def _attended(self, site: Site, seen: dict[str, Tensor], layer: Any) -> Callable[..., Any]:
        def before(_: nn.Module, args: tuple[Any, ...]) -> Any:
            q, k, v = (seen.pop(name) for name in ("to_q", "to_k", "to_v"))
            answers = self.listener or self.now
            attention = Attention(q, k, v, args[0], layer.heads, partial(_projected_alone, layer))
            change = answers.attended(site, attention) if answers else None
            return None if change is None else change_head(args, change)

        return before

    def _entering(self, block: Block) -> Callable[..., Any]:
        def before(_: nn.Module, args: tuple[Any, ...]) -> Any:
            change = self.now.entering(block, args[0]) if self.now and not self.listener else None
            return None if change is None else change_head(args, change)

        return before

    def _leaving(self, block: Block) -> Callable[..., Any]:
        def after(_: nn.Module, args: Any, output: Any) -> Any:
            answers = self.listener or self.now
            h = output[0] if isinstance(output, tuple) else output
            change = answers.leaving(block, h) if answers else None
            return None if change is None else change_head(output, change)

        return after


def sites(block: Block, parts: Iterable[nn.Module]) -> Iterator[tuple[Site, Any]]:
    """The attention layers in a block's parts, each with its module."""
    for part in parts:
        for nth, transformer in enumerate(getattr(part, "transformer_blocks", ())):
            yield Site(block, nth, cross=False), transformer.attn1
            yield Site(block, nth, cross=True), transformer.attn2


def _projected_alone(layer: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of tokens, without the hooks: these are not what the layer itself is working on."""
    return layer.to_k.forward(tokens), layer.to_v.forward(tokens)


def change_head(values: Any, change: Tensor) -> Any:
    """A tensor, or the first of a tuple, with a change added."""
    if isinstance(values, tuple):
        return (values[0] + change.to(values[0]), *values[1:])
    return values + change.to(values)


def _recording(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def after(_: nn.Module, args: Any, output: Tensor) -> None:
        seen[name] = output

    return after
