"""The embedded host: a thin Stable Diffusion WebUI around diffusers, with A1111's script contract."""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _uncollected() -> Iterator[None]:
    """Nearly all that is made while the host starts stays, and looking for garbage among it takes a sixth of
    the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@_uncollected()
def boot(argv: Sequence[str] = ()) -> None:
    """Make this process the host: `modules` importable, the checkpoint and the extensions' scripts loaded.

    argv: the command line, see `modules/shared_cmd_options.py`. Once in a process.
    Raises ControlError for a checkpoint that cannot be loaded.
    """
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("ControlStack").setLevel(logging.INFO)
    _publish_modules()
    roots = _parse(argv)
    from modules import devices, scripts, shared

    from controlstack.hosts.embedded import checkpoint, offload

    _quiet_libraries()
    asked = shared.cmd_opts
    way = offload.WHOLE_NETS if asked.medvram else offload.SINGLE_LAYERS if asked.lowvram else None
    base = checkpoint.read(asked.ckpt, asked.prediction)
    shared.opts.set("sd_model_checkpoint", base.name)
    shared.sd_model = offload.place(base, devices.device, devices.dtype_unet, way)
    scripts.roots[:] = roots
    _load_scripts()


def reload() -> None:
    """Load the scripts anew, as A1111's "Reload UI" does, once no job runs. They may tidy up before."""
    from modules import call_queue, script_callbacks, scripts

    with call_queue.queue_lock:
        script_callbacks.before_reload_callback()
        script_callbacks.script_unloaded_callback()
        script_callbacks.clear_callbacks()
        scripts.unload_scripts()
        _load_scripts()


def _load_scripts() -> None:
    from modules import script_callbacks, scripts, shared

    scripts.load_scripts(scripts.roots)
    script_callbacks.ui_settings_callback()
    script_callbacks.model_loaded_callback(shared.sd_model)
    script_callbacks.before_ui_callback()
    scripts.scripts_txt2img.initialize_scripts(is_img2img=False)
    scripts.scripts_img2img.initialize_scripts(is_img2img=True)


def _publish_modules() -> None:
    """Import the folder `modules` beside this file under the top-level name that WebUI scripts use."""
    if "modules" in sys.modules:
        raise RuntimeError("This process has another package called modules; the embedded host needs its own")
    here = str(Path(__file__).parent)
    sys.path.insert(0, here)
    try:
        importlib.import_module("modules")
    finally:
        sys.path.remove(here)


def _parse(argv: Sequence[str]) -> list[Path]:
    """Read the command line with the flags that extensions add; returns the extensions' folders."""
    from modules import extensions, script_loading
    from modules.shared_cmd_options import ROOT, cmd_opts, parser

    data_dir = parser.parse_known_args([arg for arg in argv if arg not in ("-h", "--help")])[0].data_dir
    roots = [ROOT, *sorted(folder for folder in (data_dir / "extensions").glob("*") if folder.is_dir())]
    extensions.extensions[:] = [extensions.Extension(root.name, str(root)) for root in roots]
    for preload in (root / "preload.py" for root in roots):
        if preload.is_file():
            script_loading.load_module(preload).preload(parser)
    parser.parse_args(list(argv), namespace=cmd_opts)
    return roots


def _quiet_libraries() -> None:
    """diffusers and transformers warn about what a user can do nothing about."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
