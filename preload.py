"""Command-line flags, by the names that people already have in their start scripts, and the import names that
other extensions use; standard library only."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).absolute().parent  # by the name it has among the extensions, also as a link
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

FLAGS = {
    "--controlnet-dir": dict(
        type=str, help="a folder with control models, searched before models/ControlNet"
    ),
    "--controlnet-annotator-models-path": dict(
        type=str, help="a folder for the models of preprocessors, searched first"
    ),
    "--controlnet-preprocessor-models-dir": dict(type=str, help="the same, by Forge's name"),
    "--controlnet-preprocessor-cache-size": dict(
        type=int, help="how many detected maps are kept for the next job (16)"
    ),
    "--controlnet-loglevel": dict(
        type=str.upper, choices=LEVELS, help="the least that ControlNet writes to the console (INFO)"
    ),
    "--no-half-controlnet": dict(
        action="store_true",
        help="accepted, as in sd-webui-controlnet; control follows the checkpoint's precision",
    ),
    "--controlnet-tracemalloc": dict(
        action="store_true", help="accepted for start scripts that have it; changes nothing"
    ),
}
FORGE_ADDS = {"--controlnet-loglevel", "--controlnet-tracemalloc"}
"""The built-in ControlNet of the Forge family adds these after us, enabled or not, and fails if it cannot."""


def preload(parser: ArgumentParser) -> None:
    """Add what the host or another extension has not added: a flag twice would lose all that follow."""
    others = {*parser._option_string_actions, *(FORGE_ADDS if find_spec("modules_forge") else ())}
    for flag, options in FLAGS.items():
        if flag not in others:
            parser.add_argument(flag, **options)
    _answer_imports()


def _answer_imports() -> None:
    packages = str(FOLDER / "lib_controlnet")
    if packages not in sys.path:
        sys.path.append(packages)
    from controlstack.faces import finder

    finder.install(FOLDER)
