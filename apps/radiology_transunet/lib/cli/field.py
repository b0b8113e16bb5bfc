"""`transunet-label field`: how good the drafts are, by what people made of them."""

import json
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lib.workflows.fieldmetrics import Lane


def field(
    task: str = typer.Option("", "--task", help="Name of the task; empty = the default one."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Dice between drafts and their corrections, by label, model version, annotator, site and month.

    Cases handed out at random tell the unbiased level; all others stand apart.

    Example: transunet-label field --json
    """
    from lib.cli.context import current_services
    from lib.workflows.fieldmetrics import field_report

    services = current_services()
    report = field_report(services, services.task(task))
    if as_json:
        return typer.echo(json.dumps(report.to_dict(), indent=2, default=str))
    console = Console()
    console.print(f"task {report.task}: {report.short}")
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
