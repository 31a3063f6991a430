"""Where things lie."""

from __future__ import annotations

from modules.shared_cmd_options import ROOT, cmd_opts

script_path = str(ROOT)
data_path = str(cmd_opts.data_dir)
models_path = str(cmd_opts.data_dir / "models")
extensions_dir = str(cmd_opts.data_dir / "extensions")
default_output_dir = str(cmd_opts.output_dir or cmd_opts.data_dir / "outputs")
