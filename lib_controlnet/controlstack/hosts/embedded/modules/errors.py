"""Reporting what went wrong without stopping."""

from __future__ import annotations

from controlstack.log import log


def report(message: str, *, exc_info: bool = False) -> None:
    """Log an error, with the traceback of the exception being handled if `exc_info`."""
    log.error(message, exc_info=exc_info)
