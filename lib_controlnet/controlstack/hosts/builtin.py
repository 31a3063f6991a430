"""The ControlNet that the hosts of the Forge family bring along."""

from __future__ import annotations

FOLDER = "sd_forge_controlnet"


def active() -> bool:
    """Whether it has been loaded: then it owns the title, the routes and the import names of ControlNet."""
    from modules import extensions

    return any(extension.name == FOLDER for extension in extensions.active())


def disable() -> str:
    """Leave it out from the next start on. Returns what to tell the user."""
    from modules import shared

    if FOLDER not in shared.opts.disabled_extensions:
        shared.opts.disabled_extensions = [*shared.opts.disabled_extensions, FOLDER]
        shared.opts.save(shared.config_filename)
    return (
        "The built-in ControlNet will be off from the next start on, and ControlStack in its place. Please "
        f"restart the WebUI. To have it back, enable {FOLDER} in the Extensions tab."
    )
