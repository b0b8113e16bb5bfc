"""Which model `predict` and `evaluate` use: a folder that the user names, or the champion of the task."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib.inference.predictor import Predictor
    from lib.taskfile import Task

CHECKSUM_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Choice:
    """A model, ready to predict, and how it is called."""

    task: "Task"
    predictor: "Predictor"
    folder: Path
    version: str


def choose(model: Path | None, task_name: str, device: str) -> Choice:
    """Load the model of a folder, or the champion of a task.

    Args:
        model: folder of a model; None = the champion.
        task_name: name or file of the task; empty = the task that the model names, or the default one.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        NoChampion: neither a folder nor a champion.
        InvalidTask: no such task; that of a model is one of a user's own, and was not named.
        ManifestMismatch: the model does not fit the task.
    """
    from lib.cli.context import current_settings
    from lib.inference.model import load_predictor, read_manifest
    from lib.taskfile import load_task

    settings = current_settings()
    if model is None:
        task = load_task(task_name or settings.tasks[0])
        folder, version = _champion(task)
    else:
        manifest = read_manifest(model)
        task = load_task(task_name) if task_name else _task_of(model, manifest.task)
        folder, version = model, manifest.sha256[:CHECKSUM_DIGITS]
    return Choice(task, load_predictor(folder, task, device, settings.inference.batch_size), folder, version)


def _task_of(model: Path, name: str) -> "Task":
    """The task that a model names, which is one of those that came with the program."""
    from lib.core.errors import InvalidTask
    from lib.taskfile import load_task

    try:
        return load_task(name)
    except InvalidTask as error:
        raise InvalidTask(f"the model in {model} is for task {name}; name its file with --task: {error}") from error


def _champion(task: "Task") -> tuple[Path, str]:
    """Folder and version number of the model that serves a task."""
    from lib.cli.context import current_settings
    from lib.core.errors import NoChampion
    from lib.registry.registry import Registry

    settings = current_settings()
    champion = Registry(settings.registry.located(settings.var)).champion(task.name)
    if champion is None:
        raise NoChampion(
            f"no model serves task {task.name}; name the folder of one with --model, or train one: "
            f"transunet-label train --task {task.name} --images DIR --labels DIR"
        )
    return champion.folder, str(champion.version)
