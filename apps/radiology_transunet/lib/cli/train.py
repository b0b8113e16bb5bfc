"""`transunet-label train`: a model from two folders of NIfTI files."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lib.registry.tracking import RunLog
    from lib.taskfile import Task
    from lib.training.data import Case
    from lib.workflows.offline import Trained


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
    start: Path = typer.Option(None, help="Folder of a model of the task to start from, e.g. of import-weights."),
    patients: str = typer.Option("", help="Who is one patient: each, pairs or a regular expression with a group."),
    log: bool = typer.Option(True, "--log/--no-log", help="Write task, curves, figures and pictures to the registry."),
) -> None:
    """Train a model on folders of NIfTI files. A run that was killed goes on when it is started again.

    On several GPUs: torchrun --standalone --nproc-per-node 2 --no-python transunet-label train ...

    Example: transunet-label train --images data/images --labels data/labels --task hippocampus_mr --max-minutes 3
    """
    from lib.cli.context import end_at_once, offline_folder, quiet_unless_first
    from lib.taskfile import load_task
    from lib.workflows.userfiles import pairs_of

    quiet_unless_first()

    chosen = load_task(task)
    pairs = pairs_of(images, labels)
    folder = out or offline_folder(chosen.name)
    typer.echo(f"training {chosen.name} on {len(pairs)} pairs in {images} and {labels}; the model goes to {folder}")

    from lib.cli.train_display import FitBars, bars, budget_note
    from lib.demo.folder import known_rule, patient_rule
    from lib.inference.devices import set_threads
    from lib.workflows.leftout import forget_spacing
    from lib.workflows.offline import TrainOptions, train_folder
    from lib.workflows.userfiles import FileCases

    set_threads(threads or _cores())
    patient_of = patient_rule(patients or known_rule([pair.name for pair in pairs]))
    options = TrainOptions(max_minutes, seed, device, holdout, patient_of, start, _run_log() if log else None)
    names, cases = [pair.name for pair in pairs], FileCases(pairs, chosen, patient_of)
    shown = _filled_in(chosen, names, cases, device, start, folder)
    with bars() as progress:
        show = FitBars(progress, options.applied_to(chosen.training))
        trained = train_folder(images, labels, shown, folder, options, show)
    if trained is None:  # another process of this training tells
        return end_at_once()
    forget_spacing(folder)
    _tell(trained, chosen)
    if note := budget_note(trained.fit.steps, options.applied_to(chosen.training)):
        typer.echo(note)
    _tell_next(["--images", str(images), "--labels", str(labels)], ["--task", task, "--model", str(folder)])
    end_at_once()


def _filled_in(
    task: "Task", names: "Sequence[str]", cases: "Sequence[Case]", device: str, start: Path | None, folder: Path
) -> "Task":
    """The task with the spacing that it leaves out; that of a training that was interrupted in the folder stays."""
    from lib.workflows.leftout import keep_spacing, kept_spacing, with_spacing

    kept = None if start else kept_spacing(task, names, folder)
    shown = kept or with_spacing(task, cases, device, start)
    if start is None and task.preprocess.spacing_mm is None:
        keep_spacing(task, names, shown, folder)
    if shown != task:
        why = f"in the training that {folder} goes on with" if kept else "CPUs learn in minutes there"
        spacing_mm, why = shown.preprocess.spacing_mm, "in --start" if start else why
        typer.echo(f"{task.name} names no preprocess.spacing_mm: it is {spacing_mm} mm, as {why}")
    return shown


def _tell_next(folders: list[str], model: list[str]) -> None:
    """The commands that use the model, ready to run."""
    typer.echo(f"label images with: {shlex.join(['transunet-label', 'predict', 'INPUT', 'OUTPUT', *model])}")
    typer.echo(f"measure it with: {shlex.join(['transunet-label', 'evaluate', *folders, *model])}")


def _run_log() -> "RunLog":
    """Where runs are written: the database of the registry, and a folder beside it for their files."""
    from lib.cli.context import current_settings
    from lib.registry.tracking import RUNS_NAME, RunLog

    settings = current_settings()
    return RunLog(settings.registry.located(settings.var), settings.var / RUNS_NAME)


def _tell(trained: "Trained", task: "Task") -> None:
    """What came out, by label."""
    from rich.console import Console

    from lib.cli.train_display import calibration_line, figures_table

    typer.echo(f"{trained.fit.steps} steps on {trained.cases} cases in {trained.fit.seconds:.0f} s")
    if trained.fit.cases:
        Console().print(figures_table(trained.fit.cases, task.schema.names, task.common_labels))
        typer.echo(calibration_line(trained.fit.cases))
    mean = trained.manifest.metrics.get("mean_dice")
    measured = "nobody was held out" if mean is None else f"mean Dice {mean:.3f} on {trained.held_out} held-out cases"
    typer.echo(measured + ("" if trained.run is None else f"; run {trained.run} in the registry"))


def _cores() -> int:
    """Of this machine, for each of the processes that torchrun has started here."""
    import os

    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
