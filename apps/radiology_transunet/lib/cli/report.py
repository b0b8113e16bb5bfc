"""`transunet-label report`: the morning reports of retrainings."""

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lib.workflows.report import NightRow


def report(
    run: str = typer.Argument("", help="Name of the report, for example phantom_ct-v0003; empty = the newest."),
    as_json: bool = typer.Option(False, "--json", help="Print its values instead."),
    listed: bool = typer.Option(False, "--list", help="List all retrainings, those without a report too."),
) -> None:
    """What a retraining did: prints the path of its page, which any browser opens.

    The server shows the same pages at /reports.

    Example: transunet-label report --list
    """
    from lib.cli.context import current_services, current_settings
    from lib.workflows.nightlist import nights
    from lib.workflows.reportfiles import PAGE, VALUES, report_file

    if listed:
        return _print(nights(current_services()))
    run = run or _newest(nights(current_services()))
    path = report_file(current_settings().var, run, VALUES if as_json else PAGE)
    return typer.echo(path.read_text(encoding="utf-8") if as_json else str(path))


def _print(rows: "Sequence[NightRow]") -> None:
    """The list as a table."""
    table = Table("report", "ended (UTC)", "task", "outcome", "reason")
    for row in rows:
        ended = "open" if row.is_open else f"{row.at:%Y-%m-%d %H:%M}"
        table.add_row(row.run or f"none (job {row.job})", ended, row.task, row.outcome, Text(row.reason))
    Console().print(table)


def _newest(rows: "Sequence[NightRow]") -> str:
    """The newest report; says so where a retraining has ended since without one."""
    from lib.core.errors import NotFound

    ended = [row for row in rows if not row.is_open]
    named = [row.run for row in ended if row.run]
    if not named:
        raise NotFound("no retraining has made a report yet, see: transunet-label report --list")
    if ended[0].run is None:
        last = ended[0]
        said = f"the last retraining (task {last.task}, job {last.job}) has no report: {last.outcome}, {last.reason}"
        typer.echo(f"{said}; this is the newest one before it", err=True)
    return named[0]
