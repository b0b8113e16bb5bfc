"""`transunet-label status`: the installation in one screen."""

import json

import typer
from rich.console import Console
from rich.table import Table


def status(as_json: bool = typer.Option(False, "--json", help="Machine-readable.")) -> None:
    """What is there and what is under way: archive, series, labels, drafts, jobs, champions.

    Example: transunet-label status --json
    """
    from lib.cli.context import current_services
    from lib.workflows.status import overview

    found = overview(current_services())
    if as_json:
        typer.echo(json.dumps(found, indent=2, default=str))
        return
    table = Table("what", "state", show_header=False)
    for name, value in found.items():
        table.add_row(name, _in_words(value))
    Console().print(table)


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_in_words(item)}" for key, item in value.items()) or "none"
    return str(value)
