"""`transunet-label review`: list, accept and reject annotations, release those that are held back."""

import getpass
from typing import Literal

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Look at annotations, accept or reject them.", no_args_is_help=True)

Status = Literal["draft", "submitted", "accepted", "rejected", "superseded"]
REVIEWER = typer.Option("", help="Who decides; empty = your user name.")


@app.command("list")
def list_(
    status: Status | None = typer.Option(None, help="Empty = all."),
    task: str = typer.Option("", help="Name of the task; empty = all."),
    limit: int = typer.Option(50, help="How many at most, newest first."),
    held: bool = typer.Option(False, "--held", help="Those alone that are held back for you, oldest first."),
) -> None:
    """Annotations, newest first, with the reason of what was held back or rejected.

    Example: transunet-label review list --held
    """
    from lib.cli.context import current_services
    from lib.workflows.review import held_labels, list_annotations

    if held and status is not None:
        raise typer.BadParameter("what is held back is submitted: leave --status out", param_hint="--held")
    services = current_services()
    of = services.task(task) if task else None
    rows = held_labels(services, of)[:limit] if held else list_annotations(services, of, status, limit)
    table = Table("id", "status", "task", "author", "model", "parent", "changed voxels", "series", "reason")
    for row in rows:
        state = "held back" if row.is_held else row.status
        texts = (row.id, state, row.task, row.author, row.model_version, row.parent_id, row.changed_voxels)
        reason = row.held_reason if row.is_held else row.reason
        table.add_row(*("" if text is None else str(text) for text in texts), row.series_uid, reason)
    Console().print(table)


@app.command()
def accept(annotation_id: int, reviewer: str = REVIEWER) -> None:
    """Let a submitted annotation become a training label, also one that was held back.

    Example: transunet-label review accept 12
    """
    from lib.cli.context import current_services
    from lib.workflows import review

    review.accept(current_services(), annotation_id, reviewer or getpass.getuser())
    typer.echo(f"annotation {annotation_id} is accepted")


@app.command()
def reject(
    annotation_id: int,
    reason: str = typer.Option("", help="Why, for the annotator and the audit trail."),
    reviewer: str = REVIEWER,
) -> None:
    """Refuse an annotation; its series returns to the queue.

    Example: transunet-label review reject 12 --reason "left kidney missing"
    """
    from lib.cli.context import current_services
    from lib.workflows import review

    review.reject(current_services(), annotation_id, reviewer or getpass.getuser(), reason)
    typer.echo(f"annotation {annotation_id} is rejected")
