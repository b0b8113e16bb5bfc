"""`transunet-label field`: how good the drafts are, by what people made of them."""

import getpass
import json
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lib.workflows.fieldmetrics import Lane


def field(
    task: str = typer.Option("", "--task", help="Name of the task; empty = the default one."),
    acknowledge: bool = typer.Option(False, "--acknowledge", help="Take note of the alarm; the reference starts anew."),
    reason: str = typer.Option("", "--reason", help="Why the level is as it should be, for the record."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Dice between drafts and their corrections, by label, model version, annotator, site and month.

    Cases handed out at random tell the unbiased level; all others stand apart. The alarm holds this level against a
    reference, which starts anew with each version that serves and with each alarm that is acknowledged.

    Example: transunet-label field --acknowledge --reason "another scanner since Monday"
    """
    from lib.cli.context import current_services
    from lib.workflows import fieldmetrics

    services = current_services()
    chosen = services.task(task)
    if acknowledge:
        noted = fieldmetrics.acknowledge(services, chosen, getpass.getuser(), reason)
        typer.echo(f"task {chosen.name}: acknowledged: {noted}")
    report = fieldmetrics.field_report(services, chosen)
    if as_json:
        return typer.echo(json.dumps(report.to_dict(), indent=2, default=str))
    console = Console()
    console.print(f"task {report.task}: {report.short}")
    console.print(f"  {report.reference}")
    for title, lane in (("random lane (unbiased)", report.random), ("all other lanes", report.others)):
        if lane.level is not None:
            console.print(_table(title, lane))
    return None


def _table(title: str, lane: "Lane") -> Table:
    table = Table("by", "which", "cases", "mean Dice", "median", "lowest", title=title, title_justify="left")
    for name, levels in lane.by.items():
        for number, (which, level) in enumerate(levels.items()):
            figures = (f"{value:.3f}" for value in (level.mean, level.median, level.lowest))
            table.add_row("" if number else name, which, str(level.cases), *figures)
        table.add_section()
    return table
