"""Follows a training to its end, and does it in this process where no worker does.

A worker that trains gives a sign of life every few seconds. A job without one for 5 s that no other training keeps
waiting is taken by this process, whether it was never taken or was left by a process that died.
"""

import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from lib.core.errors import TrainingFailed

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from lib.ledger.rows import JobRow
    from lib.workflows.heartbeat import Heartbeat
    from lib.workflows.services import Services

POLL_S = 0.5
NOBODY_TAKES_IT_S = 5.0
OPEN = ("queued", "running")


def follow(services: "Services", job_id: int) -> "JobRow":
    """Show the job's progress until it is done; the row then.

    Raises:
        TrainingFailed: it failed or was cancelled.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn()
    waiting_since = time.monotonic()
    with Progress(*columns) as progress:
        bar = progress.add_task(f"job {job_id}: waiting for a worker", total=1.0)
        while (row := services.ledger.jobs.get(job_id)).state in OPEN:
            if _held(services):
                waiting_since = time.monotonic()
            if row.state == "running":
                progress.update(bar, completed=row.progress, description=f"job {job_id}: {row.message or 'starting'}")
            elif row.error:
                progress.update(bar, description=f"job {job_id}: waiting: {row.error}")
            if time.monotonic() - waiting_since > NOBODY_TAKES_IT_S:
                _train_here(services, progress, bar)
                waiting_since = time.monotonic()
            time.sleep(POLL_S)
    if row.state != "done":
        raise TrainingFailed(f"job {job_id} {row.state}: {row.error or 'no reason given'}")
    return row


def is_worked_on(services: "Services", job_id: int) -> bool:
    """Whether a living process works on a job: it gives a sign of life within the time of its lease."""
    first = services.ledger.jobs.get(job_id)
    while job_id in _held(services):
        if services.ledger.jobs.get(job_id).heartbeat_at != first.heartbeat_at:
            return True
        time.sleep(POLL_S)
    return False


def stop_on_signals(heartbeat: "Heartbeat") -> None:
    """Let the first signal end the training in order; a second Ctrl-C ends the process at once."""

    def end(number: int, _: object) -> None:
        heartbeat.signalled = True
        heartbeat.end(f"stopped by {signal.Signals(number).name}")
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _held(services: "Services") -> frozenset[int]:
    """Trainings in the hands of somebody who may be alive: a worker among them may take the next one."""
    from lib.workflows.jobs import RETRAIN

    return services.ledger.jobs.held(RETRAIN)


def _train_here(services: "Services", progress: "Progress", bar: "TaskID") -> None:
    """Take the oldest training that waits, as a worker would, and do it in this process."""
    from lib.workflows.jobs import RETRAIN
    from lib.workflows.retrain_job import work_on

    name = f"{socket.gethostname()}:{os.getpid()}"
    row = services.ledger.jobs.take((RETRAIN,), name, services.settings.worker.job_lease_s)
    if row is None:
        return
    heartbeats: list[Heartbeat] = []

    def on_start(heartbeat: "Heartbeat") -> None:
        heartbeats.append(heartbeat)
        stop_on_signals(heartbeat)

    def on_report(share: float, message: str) -> None:
        progress.update(bar, completed=share, description=f"job {row.id} (no worker, training here): {message}")

    try:
        work_on(services, row, on_start=on_start, on_report=on_report)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if any(heartbeat.signalled for heartbeat in heartbeats):
        raise KeyboardInterrupt
