"""Settings of our own on the host's settings page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SECTION = ("control_net", "ControlNet")


def declare(
    key: str,
    default: object,
    label: str,
    component: Any,
    args: Mapping[str, Any],
    *,
    restrict_api: bool = False,
) -> None:
    """Add a setting.

    component, args: the gradio component that shows it, None for the host's choice, and its arguments
    restrict_api: whether programs cannot see and set it
    """
    from modules import shared

    info = shared.OptionInfo(
        default, label, component, dict(args), section=SECTION, restrict_api=restrict_api
    )
    shared.opts.add_option(key, info)
