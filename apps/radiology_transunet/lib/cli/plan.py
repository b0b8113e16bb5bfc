"""`transunet-label plan`: a task file for a folder of labelled images."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from lib.workflows.fingerprint import Fingerprint
    from lib.workflows.planner import TaskPlan


def plan(
    images: Path = typer.Option(..., help="Folder of NIfTI images."),
    labels: Path = typer.Option(..., help="Folder of NIfTI labels with the same file names."),
    out: Path = typer.Option(None, help="Task file to write; empty = NAME.yaml here."),
    name: str = typer.Option("", help="Of the task; empty = of the file, else from the folder around the images."),
    names: str = typer.Option("", help="Of the labels: 'liver, spleen' for 1 and 2, or '3: liver, 7: spleen'."),
    modality: str = typer.Option("", help="CT or MR; empty = guessed from the intensities."),
    device_memory_gb: float = typer.Option(None, help="Of the graphics card that will train; empty = two CPU cores."),
    dimensions: Literal["auto", "2", "3"] = typer.Option("auto", help="2 = slices, 3 = patches, auto = by the data."),
    force: bool = typer.Option(False, help="Replace the task file if there is one."),
) -> None:
    """Look at labelled images and write a task file for them, with the reason for each value.

    Example: transunet-label plan --images data/images --labels data/labels --names "liver, spleen" --out organs.yaml
    """
    from rich.console import Console
    from rich.progress import Progress

    from lib.taskfile import write_task
    from lib.workflows.fingerprint import read_fingerprint
    from lib.workflows.planlabels import parse_names
    from lib.workflows.planner import PlanOptions, plan_task

    chosen = name or _name_of(images.resolve().parent.name if out is None else out.stem)
    target = out or Path(f"{chosen}.yaml")
    _require_target(target, force)
    known = parse_names(names)
    options = PlanOptions(chosen, modality.upper(), device_memory_gb, dimensions, known)
    with Progress() as progress:
        bar = progress.add_task("reading", total=1.0)
        fingerprint = read_fingerprint(
            images, labels, tuple(known), lambda share, words: progress.update(bar, completed=share, description=words)
        )
    planned = plan_task(fingerprint, options)
    write_task(planned.task, target, planned.reasons)
    for table in (_data_table(fingerprint, planned), _decision_table(planned)):
        Console().print(table)
    given = ["--images", str(images), "--labels", str(labels), "--task", str(target)]
    typer.echo(f"wrote {target}; train with: {shlex.join(['transunet-label', 'train', *given])}")


def _require_target(target: Path, force: bool) -> None:
    """Refuse a wrong file before all images are read."""
    from lib.core.errors import InvalidInput
    from lib.taskfile import SUFFIXES

    if target.suffix not in SUFFIXES:
        raise InvalidInput(f"a task file ends in {' or '.join(SUFFIXES)}, got {target}")
    if target.exists() and not force:
        raise InvalidInput(f"{target} is there already; name another file with --out, or say --force")


def _name_of(text: str) -> str:
    """A task's name like some text."""
    words = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return words[:48] or "planned"


def _data_table(fingerprint: "Fingerprint", planned: "TaskPlan") -> "Table":
    from rich.table import Table

    table = Table("data", "value", title=f"{fingerprint.cases} cases")
    table.add_row("spacing, median (mm)", _three(fingerprint.median_spacing_mm))
    tenths = [_three(fingerprint.spacing_percentile_mm(percent)) for percent in (10, 90)]
    table.add_row("spacing, 10th to 90th percentile", " to ".join(tenths))
    table.add_row("size, median (voxels)", _three(fingerprint.median_size(fingerprint.median_spacing_mm)))
    low, high = fingerprint.intensities[0], fingerprint.intensities[-1]
    table.add_row("intensities of labels, 0.5 to 99.5 %", f"{low:.4g} to {high:.4g}")
    for label in planned.task.labels:
        found = fingerprint.labels.get(label.id)
        shown = f"{found.cases} cases, {found.voxels / fingerprint.voxels:.2%} of all voxels" if found else "nowhere"
        table.add_row(f"{label.id} {label.name}", shown)
    return table


def _decision_table(planned: "TaskPlan") -> "Table":
    from rich.table import Table

    from lib.taskfile import task_dict

    table = Table("decision", "value", "why", title=planned.task.name)
    values = task_dict(planned.task)
    for key, why in planned.reasons.items():
        block, _, option = key.partition(".")
        if block and block != "labels":
            table.add_row(key, str(values[block][option] if option else values[block]), why)
    return table


def _three(values: tuple[float, float, float]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
