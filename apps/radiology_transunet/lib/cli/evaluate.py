"""`transunet-label evaluate`: measure a model on labelled images."""

from pathlib import Path

import typer

from lib.cli.files import write_json

SHOWN_NAMES = 5


def evaluate(
    images: Path = typer.Option(..., help="Folder of NIfTI images."),
    labels: Path = typer.Option(..., help="Folder of NIfTI labels with the same file names."),
    json_file: Path = typer.Option(None, "--json", help="Write the figures of each label and case here."),
    model: list[Path] = typer.Option([], help="Folder of a model, again for an ensemble; empty = the task's champion."),
    task: str = typer.Option("", help="Name or file of the task; empty = the model's own, or the default one."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
    threads: int = typer.Option(0, min=0, help="CPU threads; 0 = half of the cores."),
) -> None:
    """Dice, HD95, NSD, volume and calibration error of a model, for each label and case.

    Several --model answer with the mean of their probabilities. Without --model and without a champion, the model
    that `train` left in the state folder is measured.

    Example: transunet-label evaluate --images data/images --labels data/labels --model var/offline/hippocampus_mr
    --json figures.json
    """
    from rich.console import Console
    from rich.progress import Progress

    from lib.cli.model_choice import choose
    from lib.cli.train_display import calibration_line, figures_table
    from lib.inference.devices import set_threads
    from lib.workflows.evaluation import evaluate_folder, summary

    set_threads(threads)
    choice = choose(model, task, device)
    typer.echo(choice.words)
    with Progress() as progress:
        bar = progress.add_task("measuring", total=1.0)

        def show(share: float, words: str) -> None:
            progress.update(bar, completed=share, description=words)

        found = evaluate_folder(images, labels, choice.task, choice.predictor, show, choice.learned_files)
    if json_file is not None:
        folders = [str(folder) for folder in choice.folders]
        write_json(json_file, {**summary(choice.task, found), "model": {"folders": folders, "version": choice.version}})
    Console().print(figures_table(found.cases, choice.task.schema.names, choice.task.common_labels, "cases"))
    typer.echo(calibration_line(found.cases))
    if found.learned:
        typer.echo(_warning(found.learned, len(found.cases)))


def _warning(learned: tuple[str, ...], cases: int) -> str:
    """That a model was measured on what it knows."""
    names = ", ".join(learned[:SHOWN_NAMES]) + (", ..." if len(learned) > SHOWN_NAMES else "")
    return (
        f"warning: the model has learned from {len(learned)} of these {cases} cases ({names}): the figures flatter it; "
        "measure it on others"
    )
