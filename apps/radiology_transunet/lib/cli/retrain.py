"""`transunet-label retrain`: ask for a training and follow it.

The training is a job of the ledger, which a worker takes. When nobody takes it although no training is running, there
is no worker, and this command takes it itself: with or without a worker, one command trains. Ctrl-C ends a training
that runs here, which hands the job back with its checkpoint; a training that runs in a worker goes on.

`--if-due` looks at all served tasks. A training that a process left in the middle comes first: it goes on.
"""

import getpass
import os
from typing import TYPE_CHECKING, Any

import typer

from lib.core.errors import Conflict, LabelError, TrainingFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.ledger.rows import JobRow
    from lib.taskfile import Task
    from lib.workflows.services import Services

NOT_PROMOTED = 3
OPEN = ("queued", "running")


def retrain(
    task: str = typer.Option("", "--task", help="Name of the task; empty = the default one, with --if-due all."),
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

    Ends with 0 when the version is registered, promoted or not, and when --if-due finds nothing due; with 1 when a
    training failed or was cancelled; with 3 when a champion is kept and --require-promotion was asked for.

    Example: transunet-label retrain --task phantom_ct --max-minutes 3
    """
    parent = os.getppid()  # before the imports, which take seconds in which a worker may die
    from lib.cli.context import current_services

    services = current_services()
    if job is not None:
        raise typer.Exit(_child(services, job, parent))
    if cancel:
        return _cancel(services, services.task(task))
    given = {"max_minutes": max_minutes, "steps": steps, "seed": seed, "scratch": scratch or None}
    params = {name: value for name, value in given.items() if value is not None}
    tasks = list(services.tasks.values()) if if_due and not task else [services.task(task)]
    promoted = _each(services, tasks, params, if_due, wait)
    if require_promotion and not promoted:
        raise typer.Exit(NOT_PROMOTED)


def _each(services: "Services", tasks: "list[Task]", params: "Mapping[str, Any]", if_due: bool, wait: bool) -> bool:
    """Train one task after the other; one that fails keeps no other one waiting. Whether no champion was kept."""
    failed, promoted = [], True
    for task in tasks:
        try:
            promoted = _one(services, task, params, if_due, wait) and promoted
        except LabelError as error:
            if len(tasks) == 1:
                raise
            typer.echo(f"task {task.name}: {error}", err=True)
            failed.append(task.name)
    if failed:
        raise TrainingFailed(f"the training of {', '.join(failed)} did not end, the reasons stand above")
    return promoted


def _one(services: "Services", task: "Task", params: "Mapping[str, Any]", if_due: bool, wait: bool) -> bool:
    """Train a task, when it is due if that is asked for; False when its champion was kept."""
    from lib.cli.retrain_follow import follow
    from lib.workflows.retrain import request_retrain

    job_id = _due(services, task, params) if if_due else request_retrain(services, task, params, getpass.getuser())
    if job_id is None:
        return True
    if not wait:
        typer.echo(str(job_id))
        return True
    row = follow(services, job_id)
    _print(row)
    return bool(row.result["promoted"])


def _due(services: "Services", task: "Task", params: "Mapping[str, Any]") -> int | None:
    """The training that is to be done now: one that was left open, or a new one when it is due; says why either way."""
    from lib.cli.retrain_follow import is_worked_on
    from lib.workflows.due import due
    from lib.workflows.retrain import request_retrain

    answer = due(services, task)
    if answer.open_job is None:
        typer.echo(f"task {task.name}: {'due' if answer.is_due else 'not due'}: {answer.why}")
        return request_retrain(services, task, params, getpass.getuser()) if answer.is_due else None
    row = services.ledger.jobs.get(answer.open_job)
    if row.state == "running" and is_worked_on(services, row.id):
        typer.echo(f"task {task.name}: job {row.id} is running already, worked on by {row.worker}")
        return None
    typer.echo(f"task {task.name}: job {row.id} is open and goes on")
    return row.id


def _child(services: "Services", job_id: int, parent: int) -> int:
    """Do a job in the name of the worker that started this process; the exit code."""
    from lib.cli.retrain_follow import stop_on_signals
    from lib.workflows.retrain_job import work_on

    row = services.ledger.jobs.get(job_id)
    if row.state != "running":
        raise Conflict(f"job {job_id} must be running in the name of a worker, it is {row.state}")
    return 0 if work_on(services, row, parent=parent, on_start=stop_on_signals).state == "done" else 1


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
