"""`transunet-label presegment`: drafts on demand."""

import typer


def presegment(
    series: str = typer.Argument("", help="SeriesInstanceUID of the series to draft."),
    every: bool = typer.Option(False, "--all", help="Every ready series without a human label and without a draft."),
    task: str = typer.Option("", help="Name of the task; empty = the default one."),
) -> None:
    """Draft one series now, or let the worker draft all.

    Example: transunet-label presegment 1.2.826.0.1.3680043.8.498.1
    """
    if bool(series) == every:
        raise typer.BadParameter("give either one SeriesInstanceUID or --all")
    from lib.cli.context import current_services
    from lib.workflows.models import ChampionCache
    from lib.workflows.presegment import deliver_outbox, enqueue_drafts
    from lib.workflows.presegment import presegment as draft

    services = current_services()
    chosen = services.task(task)
    if every:
        typer.echo(f"{enqueue_drafts(services, chosen, insist=True)} series wait for a draft")
        return
    annotation_id = draft(services, ChampionCache(services), chosen, series)
    deliver_outbox(services)
    row = services.ledger.annotations.get(annotation_id)
    found = ", ".join(f"{name} {count}" for name, count in row.voxels.items() if count) or "nothing found"
    typer.echo(f"draft {annotation_id} by model version {row.model_version}: {found} (voxels)")
