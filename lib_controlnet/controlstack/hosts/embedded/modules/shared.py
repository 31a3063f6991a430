"""What the whole host shares."""

from __future__ import annotations

from typing import Any

from modules import devices, options, shared_state
from modules.options import OptionInfo
from modules.shared_cmd_options import cmd_opts, parser

__all__ = ["OptionInfo", "cmd_opts", "cnx_host", "device", "opts", "parser", "sd_model", "state"]

cnx_host = "embedded"
"""By this an extension knows where it runs."""

opts = options.Options()
state = shared_state.State()
device = devices.device
sd_model: Any = None
"""The loaded `controlstack.hosts.embedded.checkpoint.Checkpoint`."""
