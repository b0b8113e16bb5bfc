"""`transunet-label train`: a model from two folders of NIfTI files."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from lib.training.fit import FitProgress

WORDS = {"prepare": "preparing", "train": "training", "validate": "measuring"}


def train(
    images: Path = typer.Option(..., help="Folder of NIfTI images."),
    labels: Path = typer.Option(..., help="Folder of NIfTI labels with the same file names."),
    task: str = typer.Option(..., help="Name of the task, or path of its file."),
    out: Path = typer.Option(None, help="Folder for the model; empty = offline/TASK in the state folder."),
    max_minutes: float = typer.Option(None, min=0.01, help="Time budget; empty = the task's steps."),
    seed: int = typer.Option(None, min=0, help="Of weights, batches and augmentation; empty = the task's."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
    threads: int = typer.Option(0, min=0, help="CPU threads; 0 = all cores."),
    holdout: float = typer.Option(0.2, min=0, max=0.9, help="Share of patients to measure on, not to train on."),
    patients: str = typer.Option("", help="Who is one patient: each, pairs or a regular expression with a group."),
) -> None:
    """Train a model on folders of NIfTI files. A run that was killed goes on when it is started again.

    Example: transunet-label train --images data/images --labels data/labels --task hippocampus_mr --max-minutes 3
    """
    from lib.cli.context import current_settings
    from lib.taskfile import load_task
    from lib.workflows.userfiles import pairs_of

    chosen = load_task(task)
    pairs = pairs_of(images, labels)
    folder = out or current_settings().var / "offline" / chosen.name
    typer.echo(f"training {chosen.name} on {len(pairs)} pairs in {images} and {labels}; the model goes to {folder}")

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from lib.demo.folder import known_rule, patient_rule
    from lib.inference.devices import set_threads
    from lib.workflows.offline import TrainOptions, train_folder

    set_threads(threads or _cores())
    patient_of = patient_rule(patients or known_rule([pair.name for pair in pairs]))
    options = TrainOptions(max_minutes, seed, device, holdout, patient_of)
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"), TimeElapsedColumn()
    with Progress(*columns) as progress:
        trained = train_folder(images, labels, chosen, folder, options, _shown(progress))
    typer.echo(f"{trained.fit.steps} steps on {trained.cases} cases in {trained.fit.seconds:.0f} s")
    for name, dice in trained.fit.dice.items():
        typer.echo(f"  {name}: " + ("no value" if dice is None else f"Dice {dice:.3f}"))
    mean = trained.manifest.metrics.get("mean_dice")
    measured = "nobody was held out" if mean is None else f"mean Dice {mean:.3f} on {trained.held_out} held-out cases"
    typer.echo(f"{measured}; label images with: transunet-label predict INPUT OUTPUT --task {task} --model {folder}")


def _shown(progress: "Progress") -> Callable[["FitProgress"], None]:
    """A callback that moves one bar a stage."""
    bars = {stage: progress.add_task(words, total=1.0, words="", visible=False) for stage, words in WORDS.items()}

    def show(now: "FitProgress") -> None:
        parts = [f"step {now.step}"] if now.step else []
        parts += [f"loss {now.loss:.3f}"] if now.loss is not None else []
        parts += [f"Dice {now.dice:.3f}"] if now.dice is not None else []
        parts += [f"{now.left_s:.0f} s left"] if now.left_s is not None else []
        progress.update(bars[now.stage], completed=now.share, words=", ".join(parts), visible=True)

    return show


def _cores() -> int:
    import os

    return os.cpu_count() or 1
