"""What the whole host shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules import devices, options, paths, shared_state
from modules.options import OptionInfo
from modules.shared_cmd_options import cmd_opts, parser

__all__ = ["OptionInfo", "cmd_opts", "cnx_host", "device", "opts", "parser", "sd_model", "state"]

cnx_host = "embedded"
"""By this an extension knows where it runs."""

config_file = Path(paths.data_path) / "config.json"
"""The settings that the page has changed."""

opts = options.Options()
opts.load(config_file)
opts.add_option("sd_model_checkpoint", OptionInfo("", "Checkpoint"))
opts.add_option("CLIP_stop_at_last_layers", OptionInfo(1, "Clip skip: SD1 reads prompts up to this layer"))
opts.add_option("eta_ddim", OptionInfo(0.0, "Eta for DDIM"))
opts.add_option("eta_ancestral", OptionInfo(1.0, "Eta for Euler a"))
opts.add_option("sd_noise_schedule", OptionInfo("Default", "Noise schedule: Default or Zero Terminal SNR"))

state = shared_state.State()
device = devices.device
sd_model: Any = None
"""The loaded `controlstack.hosts.embedded.checkpoint.Checkpoint`."""
