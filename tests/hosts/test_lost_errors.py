"""A mistake of ours reaches the page of a host whose thread for jobs drops what they raise.

The host's module is written here as reForge 3b56b268 has it: one thread takes jobs and prints their errors;
who waits gets None. `tests/browser/test_webui_page.py` asks a running one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from controlstack.errors import ControlError
from controlstack.hosts import lost_errors


@pytest.fixture
def main_thread() -> Any:
    def dropped(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return func(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  as there
            print(error)
            return None

    def run_and_wait_result(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(dropped, func, args, kwargs).result()

    return SimpleNamespace(run_and_wait_result=run_and_wait_result)


def mistaken(*_: object) -> None:
    raise ControlError("ControlNet unit 1: no picture")


def broken() -> None:
    raise ValueError("the host's")


def test_only_our_mistakes_are_brought_back(main_thread: Any):
    assert main_thread.run_and_wait_result(mistaken) is None
    lost_errors.bring_back(main_thread)
    with pytest.raises(ControlError, match="unit 1: no picture"):
        main_thread.run_and_wait_result(mistaken, "a job")
    assert main_thread.run_and_wait_result(broken) is None
    assert main_thread.run_and_wait_result(divmod, 7, 2) == (3, 1)
    assert main_thread.run_and_wait_result(dict, a=1) == {"a": 1}


def test_twice_is_once_and_a_host_that_keeps_errors_is_left_alone(main_thread: Any):
    run = main_thread.run_and_wait_result
    lost_errors.bring_back(main_thread)
    first = main_thread.run_and_wait_result
    lost_errors.bring_back(main_thread)
    assert main_thread.run_and_wait_result is first is not run
    forge = SimpleNamespace(run_and_wait_result=run, last_exception=None)
    lost_errors.bring_back(forge)
    assert forge.run_and_wait_result is run
