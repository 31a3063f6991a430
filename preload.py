"""Command-line flags, by the names that people already have in their start scripts; standard library only."""

from __future__ import annotations

from argparse import ArgumentParser

FLAGS = {
    "--controlnet-dir": dict(
        type=str, help="a folder with control models, searched before models/ControlNet"
    ),
    "--controlnet-preprocessor-cache-size": dict(
        type=int, help="how many detected maps are kept for the next job (16)"
    ),
}


def preload(parser: ArgumentParser) -> None:
    """Add what the host or another extension has not added: a flag twice would lose all that follow."""
    for flag, options in FLAGS.items():
        if flag not in parser._option_string_actions:
            parser.add_argument(flag, **options)
