"""The Forge family as the extension sees it: Forge, Forge Neo, reForge and Forge Classic.

Their script contract is A1111's and their UNets have LDM's layers, so A1111's pass runs in them; who the rows
of a call are stands in the call itself. `docs/adr/0009-forge-by-module-hooks.md` says why nothing goes by the
hosts' patchers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from modules import sd_models
from torch import Tensor, nn

from controlstack import preprocess
from controlstack.errors import ControlError
from controlstack.hosts import a1111, builtin, live_forge, lost_errors
from controlstack.hosts.ledger import Ledger, of_chunks
from controlstack.layout import Base
from controlstack.networks import Room
from controlstack.session import Session
from controlstack.unit import parse
from controlstack.weights import Loaded


class Forge(a1111.A1111):
    """A host whose checkpoints are patchers (`forge_objects`)."""

    def __init__(self) -> None:
        super().__init__()
        self.models = Networks(self.models.bound)
        self.beside_builtin = builtin.active()
        if self.beside_builtin:
            self.name = "ControlStack"
        self._announced: tuple[Tensor, Tensor] | None = None
        if find_spec("modules_forge.main_thread"):
            lost_errors.bring_back(import_module("modules_forge.main_thread"))

    def checkpoint(self) -> Any:
        """None also while the page has chosen another than is loaded: Forge loads it with the next job."""
        data = sd_models.model_data
        chosen = getattr(data, "forge_loading_parameters", None)
        return None if chosen is not None and data.forge_hash != str(chosen) else super().checkpoint()

    def base(self, p: Any) -> Base:
        return live_forge.base_of(p.sd_model)

    def services(self, p: Any) -> live_forge.LiveForge:
        return live_forge.LiveForge(p.sd_model)

    def room(self) -> Room:
        manager = _manager()
        return lambda size, device: manager.free_memory(size + manager.minimum_inference_memory(), device)

    def process(self, p: Any, values: Sequence[object]) -> None:
        super().process(p, [_with_region(value) for value in values])

    def before_sampling(self, p: Any, x: Tensor, noise: Tensor) -> None:
        """Forge announces the pass of hires fix twice, with the same noise."""
        if self._announced and self._announced[0] is noise:
            noise.copy_(self._announced[1])
        self._announced = (noise, noise.clone()) if p.is_hr_pass else None
        super().before_sampling(p, x, noise)

    def attach(self, p: Any, session: Session) -> ExitStack:
        return _Pass(self, p, session).attached()


class _Pass(a1111.Pass):
    """A sampling pass with controls."""

    live: live_forge.LiveForge

    def plan_rows(self, params: Any) -> Ledger:
        """Known at each call only."""
        return Ledger(())

    def enter_unet(self) -> None:
        super().enter_unet()
        hook = self.live.unet.register_forward_pre_hook(self.before_call, prepend=True, with_kwargs=True)
        self.unet_hooks.callback(hook.remove)

    def before_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What the host says about its call of the UNet, before controls are asked."""
        given = dict(zip(("x", "timesteps"), args, strict=False)) | kwargs
        options = given.get("transformer_options", {})
        if self.ledger is not None and "cond_or_uncond" in options:
            self.ledger = Ledger(of_chunks(options["cond_or_uncond"], len(given["x"])))
        if "sigmas" in options:
            self.live.evaluate(given["timesteps"], options["sigmas"])


def _with_region(value: object) -> object:
    """A unit in Forge's words: its `mask_image` says where to act, unless the preprocessor takes a mask."""
    said = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    if said.get("mask_image") is None or said.get("effective_region_mask") is not None:
        return value
    try:
        takes_mask = preprocess.find(parse({"module": said.get("module")}).module).accepts_mask
    except ControlError:  # said again when the unit is resolved
        return value
    return value if takes_mask else {**said, "mask_image": None, "effective_region_mask": said["mask_image"]}


class Networks(Loaded):
    """Loads outside the host's inference mode, whose tensors could be used nowhere else, and has the host's
    memory manager make room."""

    def get(self, key: Hashable, build: Callable[[], nn.Module]) -> nn.Module:
        return super().get(key, lambda: _with_room(build))


def _manager() -> Any:
    """The host's own bookkeeping of what lies on the graphics card."""
    return import_module(
        "backend.memory_management" if find_spec("backend") else "ldm_patched.modules.model_management"
    )


def _with_room(build: Callable[[], nn.Module]) -> nn.Module:
    """A network, and beside it as much free memory as the host wants for computing."""
    manager = _manager()
    device = manager.get_torch_device()
    with torch.inference_mode(mode=False), torch.no_grad():
        try:
            network = build()
        except torch.cuda.OutOfMemoryError:
            manager.free_memory(1e30, device)
            network = build()
    if device.type != "cpu":
        manager.free_memory(manager.minimum_inference_memory(), device)
    return network
