"""`transunet-label report`: the morning reports of retrainings."""

import typer
from rich.console import Console
from rich.table import Table


def report(
    run: str = typer.Argument("", help="Name of the report, for example phantom_ct-v0003; empty = the newest."),
    as_json: bool = typer.Option(False, "--json", help="Print its values instead."),
    listed: bool = typer.Option(False, "--list", help="List all reports."),
) -> None:
    """What a retraining did: prints the path of its page, which any browser opens.

    The server shows the same pages at /reports.

    Example: transunet-label report --list
    """
    from lib.cli.context import current_settings
    from lib.core.errors import NotFound
    from lib.workflows.reportfiles import PAGE, VALUES, report_file, reports

    var = current_settings().var
    found = reports(var)
    if listed:
        table = Table("report", "ended (UTC)", "verdict", "reason")
        for values in found:
            verdict = "promoted" if values["promoted"] else "champion stays"
            table.add_row(values["run"], values["finished_at"][:16].replace("T", " "), verdict, values["reason"])
        return Console().print(table)
    if not run and not found:
        raise NotFound("no retraining has ended yet: transunet-label retrain")
    path = report_file(var, run or found[0]["run"], VALUES if as_json else PAGE)
    return typer.echo(path.read_text(encoding="utf-8") if as_json else str(path))
