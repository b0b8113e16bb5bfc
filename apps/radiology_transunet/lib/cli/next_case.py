"""`transunet-label next`: the next case and where to open it, or the next ones to prepare."""

import getpass
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from lib.ledger.queuerows import QueueEntry
    from lib.taskfile import Task
    from lib.workflows.services import Services

NO_CASE = 3


def next_case(
    strategy: str = typer.Option("", help="How to choose, by name; empty = the configured one."),
    task: str = typer.Option("", help="Name of the task; empty = the default one."),
    annotator: str = typer.Option("", help="For whom; empty = your user name."),
    count: int = typer.Option(
        0, min=0, help="Print that many of the next free series and why, and take none; 0 = take one."
    ),
    draft: bool = typer.Option(False, help="With --count: let the worker draft these first, in this order."),
) -> None:
    """Take the next case under a lease and print the viewer's URL; exit code 3 when no case is free.

    Example: transunet-label next --strategy random
    """
    if draft and not count:
        raise typer.BadParameter("--draft needs --count, the number of cases to draft")
    from lib.cli.context import current_services
    from lib.workflows import query

    services = current_services()
    chosen, who = services.task(task), annotator or getpass.getuser()
    if count:
        prepare = _drafted if draft else query.next_free
        entries = prepare(services, chosen, count, strategy)
        for entry in entries:
            typer.echo(f"{entry.series_uid}\t{entry.why}")
        found = bool(entries)
    else:
        case = query.next_case(services, chosen, strategy, who)
        found = case is not None
        if case is not None:
            typer.echo(services.settings.server.url + case.viewer_path)
            typer.echo(f"{case.why}; yours until {case.lease_until:%Y-%m-%d %H:%M} UTC", err=True)
    if not found:
        typer.echo(query.why_none(services, chosen, who), err=True)
        raise typer.Exit(NO_CASE)


def _drafted(services: "Services", task: "Task", count: int, strategy: str) -> "Sequence[QueueEntry]":
    from lib.workflows.nightbatch import draft_next

    batch = draft_next(services, task, count, strategy)
    typer.echo(f"{len(batch.drafts)} of {len(batch.cases)} wait for a draft", err=True)
    return batch.cases
