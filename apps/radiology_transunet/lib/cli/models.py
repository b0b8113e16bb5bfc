"""`transunet-label models`: versions of the models, and which one serves."""

import getpass
import json
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lib.taskfile import Task
    from lib.workflows.services import Services

app = typer.Typer(help="List model versions, choose the one that serves.", no_args_is_help=True)

TASK = typer.Option("", "--task", help="Name of the task; empty = the default one.")
VERSION = typer.Argument(None, help="Of the model; empty = the one that serves.")
REASON = typer.Option("", "--reason", help="Why, for the record.")


@app.command("list")
def list_(
    task: str = typer.Option("", "--task", help="Name of the task; empty = all."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
) -> None:
    """Versions, the newest first, with what the gate said of them.

    Example: transunet-label models list --task phantom_ct
    """
    from lib.cli.context import current_services

    services = current_services()
    tasks = [services.task(task)] if task else list(services.tasks.values())
    rows = [row for chosen in tasks for row in _rows(services, chosen)]
    if as_json:
        return typer.echo(json.dumps(rows, indent=2))
    table = Table("task", "version", "serves", "mean Dice", "made", "verdict", "reason")
    for row in rows:
        dice = row["metrics"].get("mean_dice")
        shown = "" if dice is None else f"{dice:.4f}"
        made = row["created_at"][:16].replace("T", " ")
        mark = "champion" if row["champion"] else ""
        table.add_row(row["task"], str(row["version"]), mark, shown, made, row["verdict"], row["reason"])
    Console().print(table)


@app.command()
def promote(version: int, task: str = TASK, reason: str = REASON) -> None:
    """Let a version serve, whatever the gate said of it.

    Example: transunet-label models promote 3 --task phantom_ct --reason "better on lesions"
    """
    from lib.cli.context import current_services
    from lib.workflows import promotion

    services = current_services()
    chosen = services.task(task)
    promotion.promote(services, chosen, version, _by_hand(reason))
    _redraft(services, chosen)
    typer.echo(f"version {version} serves task {chosen.name}")
    _hint(services, chosen, version)


@app.command()
def rollback(task: str = TASK, reason: str = REASON) -> None:
    """Let the version serve again that served before the champion.

    Example: transunet-label models rollback --task phantom_ct
    """
    from lib.cli.context import current_services
    from lib.workflows import promotion

    services = current_services()
    chosen = services.task(task)
    model = promotion.rollback(services, chosen, _by_hand(reason))
    _redraft(services, chosen)
    typer.echo(f"version {model.version} serves task {chosen.name} again")
    _hint(services, chosen, model.version)


@app.command()
def calibrate(version: int | None = VERSION, task: str = TASK) -> None:
    """Learn from the calibration patients how good a version's masks are, and tell it of the drafts that it made.

    A training does so by itself before its model serves; this is for versions that are promoted by hand, and for when
    more calibration patients are labelled. It takes three predictions a case.

    Example: transunet-label models calibrate --task phantom_ct
    """
    from lib.cli.context import current_services
    from lib.workflows import calibrate as estimates

    services = current_services()
    chosen = services.task(task)
    with Console(stderr=True).status("starting") as status:
        found = estimates.calibrate(
            services, chosen, version, lambda share, words: status.update(f"{share:.0%} {words}")
        )
    typer.echo(
        f"version {found.version} of task {chosen.name}: its estimated Dice rests on {found.patients} calibration "
        f"patients{'' if found.patients >= found.needed else f' (intervals need {found.needed})'}; "
        f"{found.drafts} drafts have it"
    )


def _by_hand(reason: str) -> str:
    return f"by hand, {getpass.getuser()}" + (f": {reason}" if reason else "")


def _hint(services: "Services", task: "Task", version: int) -> None:
    """Say how a version that serves comes to estimates, when it has none."""
    from lib.workflows.estimates import has_estimates

    if not has_estimates(services, task, version):
        command = f"transunet-label models calibrate --task {task.name}"
        typer.echo(
            f"no estimated Dice is told of its masks yet; once there are calibration labels: {command}", err=True
        )


def _redraft(services: "Services", task: "Task") -> None:
    """Let drafts follow the new champion, as after a training."""
    from lib.workflows.presegment import enqueue_drafts

    if services.settings.presegment.automatic and services.settings.presegment.redraft:
        enqueue_drafts(services, task)


def _rows(services: "Services", task: "Task") -> list[dict[str, Any]]:
    """What is known of each version of a task, as plain values."""
    verdicts = {row.version: row for row in reversed(services.ledger.models.list(task.name, limit=1000))}
    rows: list[dict[str, Any]] = []
    for model in services.registry.list(task.name):
        verdict = verdicts.get(model.version)
        rows.append(
            {
                "task": task.name,
                "version": model.version,
                "champion": model.is_champion,
                "created_at": model.created_at.isoformat(),
                "metrics": dict(model.metrics),
                "verdict": verdict.verdict if verdict else "",
                "reason": verdict.reason if verdict else "",
                "tags": dict(model.tags),
                "folder": str(model.folder),
            }
        )
    return rows
