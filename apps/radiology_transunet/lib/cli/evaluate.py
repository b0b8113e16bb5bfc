"""`transunet-label evaluate`: measure a model on labelled images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lib.cli.files import write_json

if TYPE_CHECKING:
    from rich.table import Table


def evaluate(
    images: Path = typer.Option(..., help="Folder of NIfTI images."),
    labels: Path = typer.Option(..., help="Folder of NIfTI labels with the same file names."),
    json_file: Path = typer.Option(None, "--json", help="Write the figures of each label and case here."),
    model: Path = typer.Option(None, help="Folder of a model; empty = the champion of the task."),
    task: str = typer.Option("", help="Name or file of the task; empty = the model's own, or the default one."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
    threads: int = typer.Option(0, min=0, help="CPU threads; 0 = half of the cores."),
) -> None:
    """Dice, HD95 and NSD at 1 mm of a model, for each label and case.

    Example: transunet-label evaluate --images data/images --labels data/labels --model var/offline/hippocampus_mr
    --json figures.json
    """
    from rich.console import Console
    from rich.progress import Progress

    from lib.cli.model_choice import choose
    from lib.inference.devices import set_threads
    from lib.workflows.offline import evaluate_folder

    set_threads(threads)
    choice = choose(model, task, device)
    with Progress() as progress:
        bar = progress.add_task("measuring", total=1.0)

        def show(share: float, words: str) -> None:
            progress.update(bar, completed=share, description=words)

        figures = evaluate_folder(images, labels, choice.task, choice.predictor, show)
    if json_file is not None:
        write_json(json_file, {**figures, "model": {"folder": str(choice.folder), "version": choice.version}})
    Console().print(_table(figures))


def _table(figures: dict[str, Any]) -> "Table":
    """The means by label."""
    from rich.table import Table

    table = Table("label", "cases", "Dice", "HD95 mm", "NSD at 1 mm", title=f"{len(figures['cases'])} cases")
    for name, means in figures["labels"].items():
        table.add_row(name, str(means["cases"]), *(_shown(means[what]) for what in ("dice", "hd95_mm", "nsd")))
    table.add_row("mean", "", *(_shown(figures["mean"][what]) for what in ("dice", "hd95_mm", "nsd")))
    return table


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
