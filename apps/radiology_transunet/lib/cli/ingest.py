"""`transunet-label ingest`: one look at the archive."""

import typer


def ingest(
    full: bool = typer.Option(False, "--full", help="Compare all series of the archive with the ledger."),
) -> None:
    """Take in what is new in the archive: rows for series, jobs for the worker.

    Example: transunet-label ingest --full
    """
    from lib.cli.context import current_services
    from lib.workflows.ingest import ingest_once, reconcile

    services = current_services()
    found = ingest_once(services)
    if full:
        found += reconcile(services)
    typer.echo(str(found))
