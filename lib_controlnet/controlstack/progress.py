"""What goes on while somebody waits, in words, for whoever listens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from controlstack.log import log

Listener: TypeAlias = Callable[[str, float | None], None]
"""Gets a sentence, and how much of what it tells is done, 0..1, where that is known; from any thread."""

_listener: ContextVar[Listener | None] = ContextVar("controlstack_progress", default=None)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """What this thread tells inside, and the threads that it starts for a download, goes to this listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(sentence: str, share: float | None = None, *, level: int = logging.INFO) -> None:
    """Tell what goes on, to the log and to whoever listens. level: how much it matters in the log"""
    log.log(level, "%s", sentence if share is None else f"{sentence} ({share:.0%})")
    if listener := _listener.get():
        listener(sentence, share)
