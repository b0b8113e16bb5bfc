"""How a retraining goes on from what there is: where it starts, how fast it learns, which labels it looks at.

A challenger starts from the head of a line, shrunk towards fresh weights. The head is the champion, or a newer version
that was better than the head before on the calibration patients, but has not yet shown it to the gate: what a night
has learned is not lost to the next one. Each so many-th challenger starts fresh: the reference, which takes the line
over when it is better. A version that served and was left again heads nothing, nor does what went on from it.
"""

import logging
from collections.abc import Mapping, Sequence, Set
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

logger = logging.getLogger(__name__)

START = "start"
FRESH = "fresh weights"
LINE = "line"
AHEAD = "ahead"
"""Tags of a version: what it started from, and whether it was better than the head of the line that it found."""
VERSION = "version "
"""Before the number of the version that one started from."""


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

    A newer one counts only with all that it went on from, back to the champion or to fresh weights: what was learned on
    top of a version that served and was left again carries that version's weights.

    Args:
        services: the rooms.
        task: of the versions.
        versions: those that may be it, the newest first.
    """
    rows = services.ledger.models.list(task.name, limit=1000)
    served = {row.version for row in rows if row.verdict == PROMOTED}
    starts = {version.version: start_number(version) for version in versions}
    for version in versions:
        if version.is_champion:
            return version if _fits(version, task) else None
        is_ahead = version.tags.get(LINE) == AHEAD
        if is_ahead and _is_sound(version.version, starts, served, _champion_in(versions)) and _fits(version, task):
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


def learned_before(services: Services, task: Task, start: int | None) -> tuple[int, ...]:
    """Ids of the annotations that a version, and those that it went on from, learned from; none for fresh weights.

    Manifests of before carry nothing over: what those versions went on from is asked as well, where it is there.
    """
    from lib.inference.model import read_manifest

    versions = {version.version: version for version in services.registry.list(task.name)}
    learned: set[int] = set()
    while start in versions:
        try:
            manifest = read_manifest(versions[start].folder)
            learned.update(manifest.annotations, manifest.inherited)
        except (NotFound, ManifestMismatch) as error:
            logger.warning("what version %d of task %s learned from is not known: %s", start, task.name, error)
        start = start_number(versions[start])
    return tuple(sorted(learned))


def adapted(config: FitConfig, recipe: RecipeConfig, is_warm: bool, tuned: bool, asked: Mapping[str, Any]) -> FitConfig:
    """The task's way of training, for a challenger.

    Args:
        config: the task's, with what the request asks for.
        recipe: how to change it.
        is_warm: whether it goes on from a version: then with fewer steps and at a lower peak rate.
        tuned: whether there are calibration cases: then the best weights of several validations are kept, or with one
            the last, so that the cases, which choose nothing, may change between two attempts.
        asked: parameters of the request; a number of steps that it names stays.
    """
    if is_warm:
        steps = config.steps if "steps" in asked else max(1, round(config.steps * recipe.steps))
        rate = config.learning_rate * recipe.rate
        config = replace(config, learning_rate=rate, schedule=recipe.schedule, steps=steps)
    if tuned and recipe.validations == 1:
        config = replace(config, keep="last", validate_every=0)
    elif tuned and recipe.validations:
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

    Both are measured here, on the same cases: the figures of the new one's training are the best of several looks, and
    perhaps of other cases. To be better at all is enough, which is no proof: it says where to go on from, and what is
    to serve has to prove itself to the gate.

    Args:
        services: the rooms.
        task: of both.
        made: the new version.
        cases: to measure both on; without any the head stays.
        tell: called with the share done and what is going on.
    """
    from lib.training.measure import validate

    others = [version for version in services.registry.list(task.name) if version.version != made.version]
    head = head_of(services, task, others)
    if head is None or made.is_champion or not cases:
        return False
    means = []
    for number, version in enumerate((head, made)):
        report = _half(tell, number, f"measuring version {version.version} on the calibration patients")
        try:
            predictor = load_version(services, task, version)
        except (NotFound, ManifestMismatch) as error:
            logger.warning("version %d of task %s cannot be measured: %s", version.version, task.name, error)
            return False
        means.append(common_mean_dice(task, validate(predictor, cases, report)))
    theirs, ours = means
    is_ahead = theirs is not None and ours is not None and ours > theirs
    if is_ahead:
        services.registry.note(task.name, made.version, LINE, AHEAD)
    return is_ahead


def _half(tell: "Callable[[float, str], None]", number: int, message: str) -> "Callable[[float], None]":
    """A report of the first or the second half."""
    return lambda share: tell((number + share) / 2, message)


def _champion_in(versions: Sequence[ModelVersion]) -> int | None:
    return next((version.version for version in versions if version.is_champion), None)


def start_number(version: ModelVersion) -> int | None:
    """The version that one went on from; None = fresh weights."""
    start = version.tags.get(START, FRESH)
    return None if start == FRESH else int(start.removeprefix(VERSION))


def _is_sound(version: int, starts: Mapping[int, int | None], served: Set[int], champion: int | None) -> bool:
    """Whether a version reaches the champion or fresh weights through such alone as never served.

    Args:
        version: that is asked about.
        starts: what each version that is there went on from; None = fresh weights.
        served: the versions that serve or served.
        champion: that serves now.
    """
    at: int | None = version
    while at is not None and at != champion:
        if at in served or at not in starts:  # a version that is gone does not tell what it was made from
            return False
        at = starts[at]
    return True


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
