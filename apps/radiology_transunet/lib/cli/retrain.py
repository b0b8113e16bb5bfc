"""`transunet-label retrain`: ask for a training and follow it.

The training is a job of the ledger, which a worker takes. When nobody takes it although no training is running, there
is no worker, and this command takes it itself: with or without a worker, one command trains. Ctrl-C ends a training
that runs here, which hands the job back with its checkpoint; a training that runs in a worker goes on.
"""

import getpass
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import typer

from lib.core.errors import Conflict, TrainingFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.progress import Progress, TaskID

    from lib.ledger.rows import JobRow
    from lib.taskfile import Task
    from lib.workflows.heartbeat import Heartbeat
    from lib.workflows.services import Services

POLL_S = 0.5
NOBODY_TAKES_IT_S = 5.0
NOT_PROMOTED = 3
OPEN = ("queued", "running")


def retrain(
    task: str = typer.Option("", "--task", help="Name of the task; empty = the default one."),
    max_minutes: float | None = typer.Option(None, help="Time budget of the training in minutes."),
    steps: int | None = typer.Option(None, help="Optimiser steps instead of the task's."),
    seed: int | None = typer.Option(None, help="Of weights, batches and augmentation."),
    scratch: bool = typer.Option(False, "--scratch", help="Start from fresh weights, not from the champion's."),
    wait: bool = typer.Option(True, "--wait/--no-wait", help="Follow the training to its end, or print the job's id."),
    require_promotion: bool = typer.Option(False, "--require-promotion", help="End with 3 when the champion is kept."),
    if_due: bool = typer.Option(False, "--if-due", help="Train only when the rules of `retrain` say so; tell why."),
    cancel: bool = typer.Option(False, "--cancel", help="Cancel the task's training, queued or running."),
    job: int | None = typer.Option(None, "--job", hidden=True, help="Do this job; a worker starts it so."),
) -> None:
    """Train on the accepted labels; the model serves when the promotion patients show that it is better.

    Ends with 0 when the version is registered, promoted or not, and when --if-due finds nothing due; with 1 when the
    training failed or was cancelled; with 3 when the champion is kept and --require-promotion was asked for.

    Example: transunet-label retrain --task phantom_ct --max-minutes 3
    """
    parent = os.getppid()  # before the imports, which take seconds in which a worker may die
    from lib.cli.context import current_services
    from lib.workflows.retrain import request_retrain

    services = current_services()
    if job is not None:
        raise typer.Exit(_child(services, job, parent))
    chosen = services.task(task)
    if cancel:
        return _cancel(services, chosen)
    given = {"max_minutes": max_minutes, "steps": steps, "seed": seed, "scratch": scratch or None}
    params = {name: value for name, value in given.items() if value is not None}
    if if_due and not _due(services, chosen):
        return None
    job_id = request_retrain(services, chosen, params, getpass.getuser())
    if not wait:
        return typer.echo(str(job_id))
    row = _follow(services, job_id)
    if row.state != "done":
        raise TrainingFailed(f"job {job_id} {row.state}: {row.error or 'no reason given'}")
    _print(row)
    if require_promotion and not row.result["promoted"]:
        raise typer.Exit(NOT_PROMOTED)


def _due(services: "Services", task: "Task") -> bool:
    """Whether a training is due; says why either way."""
    from lib.workflows.due import due

    answer = due(services, task)
    typer.echo(f"task {task.name}: {'due' if answer.is_due else 'not due'}: {answer.why}")
    return answer.is_due


def _child(services: "Services", job_id: int, parent: int) -> int:
    """Do a job in the name of the worker that started this process; the exit code."""
    from lib.workflows.retrain_job import work_on

    row = services.ledger.jobs.get(job_id)
    if row.state != "running":
        raise Conflict(f"job {job_id} must be running in the name of a worker, it is {row.state}")
    return 0 if work_on(services, row, parent=parent, on_start=_stop_on_signals).state == "done" else 1


def _stop_on_signals(heartbeat: "Heartbeat") -> None:
    """Let the first signal end the training in order; a second Ctrl-C ends the process at once."""

    def end(number: int, _: object) -> None:
        heartbeat.signalled = True
        heartbeat.end(f"stopped by {signal.Signals(number).name}")
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _follow(services: "Services", job_id: int) -> "JobRow":
    """Show the job's progress until it is over; the row then."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn()
    waiting_since = time.monotonic()
    with Progress(*columns) as progress:
        bar = progress.add_task(f"job {job_id}: waiting for a worker", total=1.0)
        while (row := services.ledger.jobs.get(job_id)).state in OPEN:
            if row.state == "running" or _busy(services):
                waiting_since = time.monotonic()
            if row.state == "running":
                progress.update(bar, completed=row.progress, description=f"job {job_id}: {row.message or 'starting'}")
            elif row.error:
                progress.update(bar, description=f"job {job_id}: waiting: {row.error}")
            if time.monotonic() - waiting_since > NOBODY_TAKES_IT_S:
                _train_here(services, progress, bar)
                waiting_since = time.monotonic()
            time.sleep(POLL_S)
    return row


def _busy(services: "Services") -> bool:
    """Whether a training is running somewhere: its worker may take ours next."""
    from lib.workflows.jobs import RETRAIN

    return bool(services.ledger.jobs.list(kind=RETRAIN, state="running", limit=1))


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
        _stop_on_signals(heartbeat)

    def on_report(share: float, message: str) -> None:
        progress.update(bar, completed=share, description=f"job {row.id} (no worker, training here): {message}")

    try:
        work_on(services, row, on_start=on_start, on_report=on_report)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if any(heartbeat.signalled for heartbeat in heartbeats):
        raise KeyboardInterrupt


def _cancel(services: "Services", task: "Task") -> None:
    from lib.workflows.jobs import RETRAIN

    rows = [row for row in services.ledger.jobs.list(kind=RETRAIN, task=task.name) if row.state in OPEN]
    for row in rows:
        services.ledger.jobs.cancel(row.id)
        typer.echo(f"job {row.id} is cancelled")
    if not rows:
        typer.echo(f"task {task.name} has no training to cancel")


def _print(row: "JobRow") -> None:
    result = row.result
    kept = "promoted" if result["promoted"] else "recorded, the champion stays"
    typer.echo(f"task {row.task} version {result['version']}: {kept}")
    typer.echo(f"  {result['reason']}")
    typer.echo(
        f"  trained on {result['training']} labels, measured on {result['calibration']}, {result['seconds']:.0f} s"
    )
    for note in result.get("notes", ()):
        typer.echo(f"  {note}")
    for name, value in result["metrics"].items():
        typer.echo(f"  {name}: {value:.4f}")
    _print_verdict(result.get("verdict") or {})


def _print_verdict(verdict: "Mapping[str, Any]") -> None:
    """The differences that the gate weighed, a line each."""
    found = [*verdict.get("labels", ()), verdict.get("mean"), verdict.get("newest")]
    for part in (part for part in found if part and part["lower"] is not None):
        typer.echo(
            f"  {part['name']}: {part['difference']:+.4f} against version {verdict['champion']}, at least "
            f"{part['lower']:+.4f}, needed above {part['floor']:+.4f}, {part['patients']} promotion patients"
        )
