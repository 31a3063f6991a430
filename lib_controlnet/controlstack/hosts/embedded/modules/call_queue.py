"""One job at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any

queue_lock = Lock()


def wrap_queued_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, waiting for its turn."""

    @wraps(function)
    def queued(*args: Any, **kwargs: Any) -> Any:
        with queue_lock:
            return function(*args, **kwargs)

    return queued
