"""How a retraining goes on from what there is: where it starts, how fast it learns, which labels it looks at.

A challenger starts from the head of a line, shrunk towards fresh weights. The head is the champion, or a newer version
that was better than the head before on the calibration patients, but has not yet shown it to the gate: what a night
has learned is not lost to the next one. Each so many-th challenger starts fresh: the reference, which takes the line
over when it is better. A version that served and was left again heads nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lib.core.errors import ManifestMismatch, NotFound
from lib.registry.versions import ModelVersion
from lib.taskfile import Task
from lib.training.config import FitConfig
from lib.workflows.casefigures import common_mean_dice
from lib.workflows.collect import CalibrationCases
from lib.workflows.config import RecipeConfig
from lib.workflows.models import load_version
from lib.workflows.promotion import PROMOTED
from lib.workflows.services import Services

if TYPE_CHECKING:
    from collections.abc import Callable

START = "start"
FRESH = "fresh weights"
LINE = "line"
AHEAD = "ahead"
"""Tags of a version: what it started from, and whether it was better than the head of the line that it found."""


def start_of(services: Services, task: Task) -> int | None:
    """The version that a training starts from; None = fresh weights, where nothing fits or a reference is due."""
    versions = services.registry.list(task.name)  # the newest first
    every = services.settings.recipe.reference_every
    if every and _warm_since_fresh(versions) >= every - 1:
        return None
    head = head_of(services, task, versions)
    return None if head is None else head.version


def head_of(services: Services, task: Task, versions: Sequence[ModelVersion]) -> ModelVersion | None:
    """The version that the line goes on from; None where neither the champion nor a newer one fits the task as it is.

    Args:
        services: the rooms.
        task: of the versions.
        versions: those that may be it, the newest first.
    """
    tried = {row.version for row in services.ledger.models.list(task.name, limit=1000) if row.verdict == PROMOTED}
    for version in versions:
        is_ahead = version.tags.get(LINE) == AHEAD and version.version not in tried
        if (version.is_champion or is_ahead) and _fits(version, task):
            return version
    return None


def why_not_from(services: Services, task: Task, version: int) -> str | None:
    """Why a training cannot start from the weights of a version: they are gone, damaged, or of another network."""
    from lib.inference.model import read_manifest, read_state

    try:
        folder = services.registry.path(task.name, version)
        read_manifest(folder).require_starts(task)
        read_state(folder)
    except (NotFound, ManifestMismatch) as error:
        return str(error)
    return None


def new_labels(services: Services, task: Task, start: int | None, training: Sequence[int]) -> tuple[int, ...]:
    """Which of the annotations the version has not learned from; all of them for fresh weights."""
    from lib.inference.model import read_manifest

    learned = () if start is None else read_manifest(services.registry.path(task.name, start)).annotations
    return tuple(number for number in training if number not in set(learned))


def adapted(config: FitConfig, recipe: RecipeConfig, is_warm: bool, tuned: bool, asked: Mapping[str, Any]) -> FitConfig:
    """The task's way of training, for a challenger.

    Args:
        config: the task's, with what the request asks for.
        recipe: how to change it.
        is_warm: whether it goes on from a version: then with fewer steps and at a lower peak rate.
        tuned: whether there are calibration cases: then the best weights of some validations are kept.
        asked: parameters of the request; a number of steps that it names stays.
    """
    if is_warm:
        steps = config.steps if "steps" in asked else max(1, round(config.steps * recipe.steps))
        config = replace(config, learning_rate=config.learning_rate * recipe.rate, steps=steps)
    if tuned and recipe.validations:
        config = replace(config, keep="best", validate_every=-(-config.steps // recipe.validations))
    return config


def first_weights(services: Services, task: Task, start: int | None, seed: int) -> Mapping[str, Any] | None:
    """The state dict that a training starts from; None = fresh ones."""
    from lib.inference.model import read_state
    from lib.training.warmstart import warm_start

    if start is None:
        return None
    champion = read_state(services.registry.path(task.name, start))
    return warm_start(champion, task.network, task.schema, seed, services.settings.recipe.keep)


def hold_line(
    services: Services,
    task: Task,
    made: ModelVersion,
    cases: CalibrationCases,
    tell: "Callable[[float, str], None]",
) -> bool:
    """Whether a new version is better than the head of the line on the calibration patients; noted with it.

    Args:
        services: the rooms.
        task: of both.
        made: the new version.
        cases: that it was measured on.
        tell: called with the share done and what is going on.
    """
    from lib.training.measure import validate

    others = [version for version in services.registry.list(task.name) if version.version != made.version]
    head, mean = head_of(services, task, others), made.metrics.get("mean_dice")
    if head is None or mean is None:
        return False
    try:
        predictor = load_version(services, task, head)
    except (NotFound, ManifestMismatch):
        return False
    found = validate(predictor, cases, lambda share: tell(share, "holding the version before against the new one"))
    theirs = common_mean_dice(task, found)
    is_ahead = theirs is not None and mean > theirs
    if is_ahead:
        services.registry.note(task.name, made.version, LINE, AHEAD)
    return is_ahead


def _warm_since_fresh(versions: Sequence[ModelVersion]) -> int:
    """How many of the newest versions in a row went on from another one."""
    count = 0
    for version in versions:
        if version.tags.get(START, FRESH) == FRESH:
            break
        count += 1
    return count


def _fits(version: ModelVersion, task: Task) -> bool:
    from lib.inference.model import read_manifest

    try:
        read_manifest(version.folder).require_starts(task)
    except (NotFound, ManifestMismatch):
        return False
    return True
