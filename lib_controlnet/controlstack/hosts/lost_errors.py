"""Our sentences on reForge's page: its thread for jobs prints what they raise, and answers nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from controlstack.errors import ControlError


def bring_back(main_thread: Any) -> None:
    """Have the host's `run_and_wait_result` raise the mistake of ours that ended the job it waited for.

    main_thread: `modules_forge.main_thread`. Forge's own keeps what a job raised, and is left as it is.
    What others raise stays as the host has it. Calling it twice changes nothing.
    """
    run = main_thread.run_and_wait_result
    if hasattr(main_thread, "last_exception") or hasattr(run, "__wrapped__"):
        return

    @wraps(run)
    def run_and_wait_result(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        mistakes: list[ControlError] = []

        def kept(*args: Any, **kwargs: Any) -> Any:
            try:
                return func(*args, **kwargs)
            except ControlError as mistake:
                mistakes.append(mistake)
                raise

        result = run(kept, *args, **kwargs)
        if mistakes:
            raise mistakes[0]
        return result

    main_thread.run_and_wait_result = run_and_wait_result
