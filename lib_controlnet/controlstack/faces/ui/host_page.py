"""Components of the host's page that the panel looks at: they are remembered as the host makes them."""

from __future__ import annotations

from typing import Any

_WANTED = ("txt2img_width", "txt2img_height", "img2img_width", "img2img_height")
_found: dict[str, Any] = {}


def remember(component: Any, **_: Any) -> None:
    """The host's `on_after_component`: it has made a component."""
    if (name := getattr(component, "elem_id", None)) in _WANTED:
        _found[name] = component


def size(tab: str) -> list[Any]:
    """The sliders of width and height on the page that is being built; none where they come later, or are
    called otherwise."""
    from controlstack.faces.ui import compat

    sliders = [_found.get(f"{tab}_{side}") for side in ("width", "height")]
    return sliders if all(compat.on_this_page(slider) for slider in sliders) else []
