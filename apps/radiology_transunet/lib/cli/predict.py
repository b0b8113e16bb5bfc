"""`transunet-label predict`: label one image."""

from pathlib import Path

import typer


def predict(
    source: Path = typer.Argument(..., metavar="INPUT", help="A NIfTI file, or a folder with one DICOM series."),
    target: Path = typer.Argument(..., metavar="OUTPUT", help="NIfTI (.nii, .nii.gz) or, from DICOM, SEG (.dcm)."),
    model: list[Path] = typer.Option([], help="Folder of a model, again for an ensemble; empty = the task's champion."),
    task: str = typer.Option("", help="Name or file of the task; empty = the model's own, or the default one."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
    threads: int = typer.Option(0, min=0, help="CPU threads; 0 = half of the cores."),
) -> None:
    """Label an image with a model; several --model answer with the mean of their probabilities.

    Example: transunet-label predict scan.nii.gz mask.nii.gz --model var/offline/hippocampus_mr
    """
    from rich.progress import Progress

    from lib.cli.model_choice import choose
    from lib.inference.devices import set_threads
    from lib.workflows.offline import predict_file

    set_threads(threads)
    choice = choose(model, task, device)
    typer.echo(choice.words)
    with Progress() as progress:
        bar = progress.add_task("reading", total=1.0)
        found = predict_file(
            source,
            target,
            choice.task,
            choice.predictor,
            choice.version,
            lambda share, words: progress.update(bar, completed=share, description=words),
        )
    if found:
        typer.echo(f"{target}: labels of {choice.task.name}, model {choice.version}")
    else:
        unwritten = "; a SEG holds at least one voxel, none was written" if target.suffix == ".dcm" else ""
        typer.echo(f"model {choice.version} found nothing in {source}{unwritten}")
