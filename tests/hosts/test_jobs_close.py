"""However a job ends, hooks go and the host's own `close` runs; jobs are copied, and run inside others."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from controlstack.hosts import webui


class Job:
    """As much of a host's job as matters for its end."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Host:
    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def host() -> Host:
    return Host()


def begin(host: Any, job: Any) -> None:
    webui.WebUI._release_with(host, job)


def test_a_job_closes_itself_once_and_gets_its_own_close_back(host: Host) -> None:
    job = Job()
    begin(host, job)
    begin(host, job)  # Loopback processes one job again and again
    job.close()
    assert (host.released, job.closed) == (1, 1)
    assert "close" not in vars(job)
    job.close()
    assert (host.released, job.closed) == (1, 2)


def test_a_copy_that_is_processed_closes_itself_and_not_the_original(host: Host) -> None:
    """X/Y/Z plot and ADetailer copy a job with all its attributes."""
    outer = Job()
    begin(host, outer)
    inner = copy.copy(outer)
    begin(host, inner)
    inner.close()
    assert (inner.closed, outer.closed) == (1, 0)
    outer.close()
    assert (inner.closed, outer.closed) == (1, 1)


def test_what_another_extension_put_there_is_called_and_stays(host: Host) -> None:
    job, calls = Job(), []
    job.close = lambda: calls.append("other")  # type: ignore[method-assign]
    begin(host, job)
    begin(host, job)
    job.close()
    job.close()
    assert calls == ["other", "other"]
    assert host.released == 1
