"""Running a job in its turn, for whoever asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from modules import call_queue, processing, scripts, shared


def run(p: Any, runner: scripts.ScriptRunner, args: Sequence[Any]) -> processing.Processed:
    """Run the job with a tab's scripts and their arguments, alone in this process."""
    with call_queue.queue_lock, closing(p):
        shared.state.begin(runner.job)
        try:
            p.scripts, p.script_args = runner, args
            processed: processing.Processed = runner.run(p, *args) or processing.process_images(p)
        finally:
            shared.state.end()
    return processed
