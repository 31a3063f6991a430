"""What the host is doing, and whether it was asked to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, ClassVar


@dataclass
class State:
    """A1111's `shared.state`; steps are UNet evaluations of the running pass."""

    job: str = ""
    job_no: int = 0
    job_count: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0
    interrupted: bool = False
    skipped: bool = False
    stopping_generation: bool = False
    job_timestamp: str = "0"
    time_start: float | None = None
    current_latent: Any = None
    """What the UNet is looking at, "4 h w", of the first picture of the running batch."""

    server_command: ClassVar[str | None] = None
    """What the server is to do next: "restart", or go on."""

    def request_restart(self) -> None:
        """Have the scripts loaded anew and the page built anew, once what runs has ended."""
        type(self).server_command = "restart"

    def clear_command(self) -> None:
        type(self).server_command = None

    def begin(self, job: str = "(unknown)") -> None:
        for field in fields(self):
            setattr(self, field.name, field.default)
        self.job, self.job_count = job, -1
        self.job_timestamp, self.time_start = datetime.now().strftime("%Y%m%d%H%M%S"), time.time()

    def end(self) -> None:
        self.job, self.job_count, self.current_latent = "", 0, None

    def nextjob(self) -> None:
        self.job_no += 1
        self.sampling_step = 0

    def interrupt(self) -> None:
        """End the job with what is there."""
        self.interrupted = True

    def skip(self) -> None:
        """End the running batch with what is there."""
        self.skipped = True

    def dict(self) -> dict[str, Any]:
        keys = (
            "skipped",
            "interrupted",
            "stopping_generation",
            "job",
            "job_count",
            "job_timestamp",
            "job_no",
        )
        return {key: getattr(self, key) for key in (*keys, "sampling_step", "sampling_steps")}
