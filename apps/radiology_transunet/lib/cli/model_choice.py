"""Which models `predict` and `evaluate` use: folders that the user names, or the champion of the task."""

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib.inference.model import Manifest
    from lib.inference.predictor import Predictor
    from lib.taskfile import Task

CHECKSUM_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Choice:
    """A model, or several that answer as one, ready to predict.

    Attributes:
        task: what it labels.
        predictor: answers.
        folders: of the models.
        version: how it is called.
        words: what was chosen, for the user.
        learned_files: SHA-256 of the image files that one of them has learned from, as far as manifests say.
    """

    task: "Task"
    predictor: "Predictor"
    folders: tuple[Path, ...]
    version: str
    words: str
    learned_files: frozenset[str] = frozenset()


def choose(models: Sequence[Path], task_name: str, device: str) -> Choice:
    """Load the models of folders; or the champion of a task; or else what `train` left for it in the state folder.

    Args:
        models: folders; none = the champion.
        task_name: name or file of the task; empty = the task that the first model names, or the default one.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        NoChampion: neither a folder, nor a champion, nor a model of `train` that fits the task.
        NotFound: a folder without a model.
        InvalidTask: no such task; that of a model is one of a user's own, and was not named.
        ManifestMismatch: a model does not fit the task.
    """
    from lib.cli.context import current_settings
    from lib.inference.model import load_ensemble, read_manifest
    from lib.taskfile import load_task

    settings = current_settings()
    if models:
        manifests = [read_manifest(folder) for folder in models]
        task = load_task(task_name) if task_name else _task_of(models[0], manifests[0].task)
        folders, version = tuple(models), _version(manifests)
        words = f"model {version} in {', '.join(map(str, folders))}"
    else:
        given = task_name or settings.tasks[0]
        task = load_task(given)
        folder, version, words = _champion(task) or _trained(task, given)
        folders, manifests = (folder,), [read_manifest(folder)]
    predictor = load_ensemble(folders, task, device, settings.inference.batch_size)
    learned = frozenset(file for manifest in manifests for file in manifest.files)
    return Choice(task, predictor, folders, version, words, learned)


def _task_of(model: Path, name: str) -> "Task":
    """The task that a model names, which is one of those that came with the program."""
    from lib.core.errors import InvalidTask
    from lib.taskfile import load_task

    try:
        return load_task(name)
    except InvalidTask as error:
        raise InvalidTask(f"the model in {model} is for task {name}; name its file with --task: {error}") from error


def _version(manifests: Sequence["Manifest"]) -> str:
    """The first digits of the checksum of the weights; of several, of all checksums, with their number."""
    sums = [manifest.sha256 for manifest in manifests]
    if len(sums) == 1:
        return sums[0][:CHECKSUM_DIGITS]
    return f"{len(sums)}x{hashlib.sha256(' '.join(sums).encode()).hexdigest()[:CHECKSUM_DIGITS]}"


def _champion(task: "Task") -> tuple[Path, str, str] | None:
    """Folder, version number and words of the model that serves a task, or None."""
    from lib.cli.context import current_settings
    from lib.registry.registry import Registry

    settings = current_settings()
    champion = Registry(settings.registry.located(settings.var)).champion(task.name)
    if champion is None:
        return None
    version = str(champion.version)
    return champion.folder, version, f"model {version}, the champion of task {task.name}"


def _trained(task: "Task", given: str) -> tuple[Path, str, str]:
    """Folder, version and words of the model that `train` left in the state folder.

    Args:
        task: that it must fit.
        given: how the user called it.

    Raises:
        NoChampion: none, or one of something else.
    """
    from lib.cli.context import offline_folder
    from lib.core.errors import ManifestMismatch, NoChampion, NotFound
    from lib.inference.model import read_manifest

    folder = offline_folder(task.name)
    try:
        manifest = read_manifest(folder)
        manifest.require_fits(task)
    except (NotFound, ManifestMismatch) as error:
        again = ["transunet-label", "train", "--task", given, "--images", "DIR", "--labels", "DIR"]
        raise NoChampion(
            f"no model serves task {task.name}, and there is none of `train` that fits it ({error}); name the folder "
            f"of one with --model, or train one: {shlex.join(again)}"
        ) from error
    version = _version([manifest])
    return folder, version, f"no model serves task {task.name}; taking model {version} of `train` in {folder}"
