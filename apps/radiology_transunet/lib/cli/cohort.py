"""`transunet-label curate cohort`: named sets of series."""

import getpass
import json

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Named sets of series.", no_args_is_help=True)

NAME = typer.Argument(..., metavar="COHORT", help="Its name: lower-case letters, digits, dots, dashes.")
SERIES = typer.Argument(..., metavar="SERIES...", help="SeriesInstanceUIDs.")
JSON = typer.Option(False, "--json", help="Machine-readable.")


@app.command("list")
def list_(as_json: bool = JSON) -> None:
    """All cohorts.

    Example: transunet-label curate cohort list
    """
    from lib.cli.context import current_services
    from lib.workflows.curate.cohorts import cohort_dict

    rows = [cohort_dict(row) for row in current_services().ledger.curation.cohorts()]
    if as_json:
        return typer.echo(json.dumps(rows, indent=2))
    table = Table("cohort", "series", "made by", "description")
    for row in rows:
        table.add_row(row["name"], str(row["size"]), row["author"], row["description"])
    return Console().print(table)


@app.command()
def show(name: str = NAME, as_json: bool = JSON) -> None:
    """The series of a cohort, one a line.

    Example: transunet-label curate cohort show strange
    """
    from lib.cli.context import current_services
    from lib.workflows.curate.cohorts import members_dict

    found = members_dict(current_services(), name)
    if as_json:
        return typer.echo(json.dumps(found, indent=2))
    for row in found["series"]:
        typer.echo(row["series"])
    return None


@app.command()
def create(
    name: str = NAME, description: str = typer.Option("", help="What it is for; goes out with its exports.")
) -> None:
    """Make a cohort without series.

    Example: transunet-label curate cohort create strange --description "unlike what is labelled"
    """
    from lib.cli.context import current_services

    current_services().ledger.curation.create(name, description, getpass.getuser())
    typer.echo(f"cohort {name} is made")


@app.command()
def add(name: str = NAME, series: list[str] = SERIES) -> None:
    """Put series into a cohort, which is made when there is none.

    Example: transunet-label curate cohort add strange 1.2.3.4 1.2.3.5
    """
    from lib.cli.context import current_services
    from lib.workflows.curate.cohorts import put

    added = put(current_services(), name, series, getpass.getuser())
    typer.echo(f"{added} of {len(series)} series are new in cohort {name}")


@app.command()
def remove(name: str = NAME, series: list[str] = SERIES) -> None:
    """Take series out of a cohort.

    Example: transunet-label curate cohort remove strange 1.2.3.4
    """
    from lib.cli.context import current_services

    removed = current_services().ledger.curation.remove(name, series, getpass.getuser())
    typer.echo(f"{removed} series are out of cohort {name}")


@app.command()
def delete(name: str = NAME) -> None:
    """Forget a cohort; its series stay, and the audit trail keeps which they were.

    Example: transunet-label curate cohort delete strange
    """
    from lib.cli.context import current_services

    current_services().ledger.curation.delete(name, getpass.getuser())
    typer.echo(f"cohort {name} is deleted")
