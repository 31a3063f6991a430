"""Callbacks that scripts register when they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modules import errors

_registered: dict[str, list[Callable[..., Any]]] = {}


@dataclass
class CFGDenoiserParams:
    """One UNet evaluation. Scripts may replace x and the conditionings.

    x: "R 4 h w", as the UNet sees them: the rows of the prompts, then, with CFG, of the negative ones
    sigma: "R", the noise level
    text_cond, text_uncond: "P L D" of the prompts, more than pictures where AND joins them, and "B L D";
        text_uncond is None without CFG
    """

    x: Any
    image_cond: Any
    sigma: Any
    sampling_step: int
    total_sampling_steps: int
    text_cond: Any
    text_uncond: Any
    denoiser: Any = None


@dataclass
class CFGDenoisedParams:
    """What one evaluation made of x.

    x: "R 4 h w", the denoised pictures x0, in the order of rows above; changed in place
    inner_model: the UNet
    """

    x: Any
    sampling_step: int
    total_sampling_steps: int
    inner_model: Any


@dataclass
class AfterCFGCallbackParams:
    """The same after CFG. Scripts may replace x, "B 4 h w"; the step goes on from it.

    output_altered: some scripts say so; it changes nothing
    """

    x: Any
    sampling_step: int
    total_sampling_steps: int
    output_altered: bool = False


def _registrar(kind: str) -> Callable[..., None]:
    def register(callback: Callable[..., Any], *, name: str | None = None) -> None:
        _registered.setdefault(kind, []).append(callback)

    return register


def _dispatcher(kind: str, *, last_first: bool = False) -> Callable[..., None]:
    def dispatch(*args: Any, **kwargs: Any) -> None:
        for callback in _registered.get(kind, [])[:: -1 if last_first else 1]:
            try:
                callback(*args, **kwargs)
            except Exception:  # noqa: BLE001  an extension's mistake must not stop the host
                errors.report(f"Error executing callback {kind} of {callback.__module__}", exc_info=True)

    return dispatch


on_app_started, app_started_callback = _registrar("app_started"), _dispatcher("app_started")
on_ui_settings, ui_settings_callback = _registrar("ui_settings"), _dispatcher("ui_settings")
on_before_ui, before_ui_callback = _registrar("before_ui"), _dispatcher("before_ui")
on_model_loaded, model_loaded_callback = _registrar("model_loaded"), _dispatcher("model_loaded")
on_ui_tabs = _registrar("ui_tabs")
on_before_component, before_component_callback = (
    _registrar("before_component"),
    _dispatcher("before_component"),
)
on_after_component, after_component_callback = _registrar("after_component"), _dispatcher("after_component")
on_infotext_pasted, infotext_pasted_callback = _registrar("infotext_pasted"), _dispatcher("infotext_pasted")
on_before_reload, before_reload_callback = _registrar("before_reload"), _dispatcher("before_reload")
on_script_unloaded, script_unloaded_callback = (
    _registrar("script_unloaded"),
    _dispatcher("script_unloaded", last_first=True),
)
on_cfg_denoised, cfg_denoised_callback = _registrar("cfg_denoised"), _dispatcher("cfg_denoised")
on_cfg_after_cfg, cfg_after_cfg_callback = _registrar("cfg_after_cfg"), _dispatcher("cfg_after_cfg")
on_cfg_denoiser, cfg_denoiser_callback = _registrar("cfg_denoiser"), _dispatcher("cfg_denoiser")


def is_listened_to(kind: str) -> bool:
    """Whether any script has registered for it."""
    return bool(_registered.get(kind))


def ui_tabs_callback() -> list[tuple[Any, str, str]]:
    """Every tab that an extension adds to the page: its blocks, title and id."""
    tabs: list[tuple[Any, str, str]] = []
    for callback in _registered.get("ui_tabs", ()):
        try:
            tabs += callback() or []
        except Exception:  # noqa: BLE001  as above
            errors.report(f"Error executing callback ui_tabs of {callback.__module__}", exc_info=True)
    return tabs


def clear_callbacks() -> None:
    """Forget all of them, before scripts are loaded anew."""
    _registered.clear()


def remove_callbacks_for_function(function: Callable[..., Any]) -> None:
    for callbacks in _registered.values():
        callbacks[:] = [callback for callback in callbacks if callback is not function]
