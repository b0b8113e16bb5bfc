"""`transunet-label next`: the next case and where to open it."""

import getpass

import typer

NO_CASE = 3


def next_case(
    strategy: str = typer.Option("", help="How to choose: entropy, random; empty = the configured one."),
    task: str = typer.Option("", help="Name of the task; empty = the default one."),
    annotator: str = typer.Option("", help="For whom; empty = your user name."),
) -> None:
    """Take the next case under a lease and print the viewer's URL; exit code 3 when no case is free.

    Example: transunet-label next --strategy random
    """
    from lib.cli.context import current_services
    from lib.workflows.query import next_case as take

    services = current_services()
    case = take(services, services.task(task), strategy, annotator or getpass.getuser())
    if case is None:
        typer.echo("no case is free: all are labelled or handed out", err=True)
        raise typer.Exit(NO_CASE)
    typer.echo(services.settings.server.url + case.viewer_path)
    typer.echo(f"{case.why}; yours until {case.lease_until:%Y-%m-%d %H:%M} UTC", err=True)
