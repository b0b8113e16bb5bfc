"""Which labels each step of a retraining may see: learn from the pool, tune on calibration, judge on promotion.

The three sets are types, and each names its split itself: what learns takes `PoolCases`, so that nobody can hand it
other ones by a wrong word. A series is looked up again when it is collected: one that has moved to another patient
since the plan was made, and so into another split, is left out. What a model learned from while it was another
patient's never tunes and never judges, wherever it has moved.
"""

import logging
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import ClassVar, TypeVar

from lib.core.errors import InvalidInput, ManifestMismatch, NotFound
from lib.ledger.rows import AnnotationRow
from lib.taskfile import Task
from lib.workflows.casecache import CaseCache, LazyCases
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

HUMAN = "human"


class Split(StrEnum):
    """What a patient is for, for ever."""

    POOL = "pool"
    CALIBRATION = "calibration"
    PROMOTION = "promotion"


class SplitCases(LazyCases):
    """Cases of patients of one split.

    Args:
        cache: reads them.
        rows: their annotations, all of that split.
    """

    split: ClassVar[Split]
    called: ClassVar[str]


class PoolCases(SplitCases):
    """To learn from."""

    split = Split.POOL
    called = "training"


class CalibrationCases(SplitCases):
    """To tune on: the weights that are kept, and what is reported while a model is made."""

    split = Split.CALIBRATION
    called = "calibration"


class PromotionCases(SplitCases):
    """To judge on, by the gate alone."""

    split = Split.PROMOTION
    called = "promotion"


Cases = TypeVar("Cases", bound=SplitCases)


def accepted_ids(services: Services, task: Task, of: type[SplitCases]) -> tuple[int, ...]:
    """Ids of the human labels of a split; what a model drew never counts, whatever its status."""
    rows = services.ledger.annotations.accepted(task.name, of.split.value)
    return tuple(sorted(row.id for row in rows if row.origin == HUMAN))


def collect(
    services: Services,
    cache: CaseCache,
    of: type[Cases],
    ids: Sequence[int],
    tell: Callable[[float, str], None],
    note: Callable[[str], object] = logger.warning,
) -> Cases:
    """The annotations as cases, in the cache by now; what cannot be used any more is left out and logged.

    Args:
        services: the rooms.
        cache: of the task.
        of: which set they are for.
        ids: of the annotations.
        tell: called with the share done and what is going on.
        note: hears how many cases that are to tune or to judge are left out because a model learned from them.

    Raises:
        ArchiveUnavailable: the archive is away.
    """
    rows = []
    seen = _learned_from(services, of, ids)
    if seen:
        note(
            f"{len(seen)} {of.called} cases are left out: a version learned from their series when they were another "
            f"patient's (annotations {', '.join(map(str, sorted(seen)))})"
        )
    for done, annotation_id in enumerate(ids):
        tell(done / len(ids), f"fetching {of.called} case {done + 1} of {len(ids)}")
        row = services.ledger.annotations.get(annotation_id)
        if annotation_id not in seen and _is_usable(services, row, of.split) and _is_readable(cache, row):
            rows.append(row)
    return of(cache, rows)


def _learned_from(services: Services, of: type[SplitCases], ids: Sequence[int]) -> frozenset[int]:
    """Which of the annotations, that are not to learn from, are of series that a registered version learned from."""
    if of.split == Split.POOL:
        return frozenset()
    rows = [services.ledger.annotations.get(number) for number in ids]
    learned = {task: _annotations_of_versions(services, task) for task in {row.task for row in rows}}

    def is_seen(row: AnnotationRow) -> bool:
        all_of_it = services.ledger.annotations.list(row.task, series_uid=row.series_uid, limit=None)
        return any(one.id in learned[row.task] for one in all_of_it)

    return frozenset(row.id for row in rows if is_seen(row))


def _annotations_of_versions(services: Services, task: str) -> frozenset[int]:
    """Ids of all that the registered versions of a task and those before them learned from, as their manifests say."""
    from lib.inference.model import read_manifest

    found: set[int] = set()
    for model in services.registry.list(task):
        try:
            manifest = read_manifest(model.folder)
        except (NotFound, ManifestMismatch) as error:
            logger.warning("what version %d of task %s learned from is not known: %s", model.version, task, error)
            continue
        found.update(manifest.annotations, manifest.inherited)
    return frozenset(found)


def _is_usable(services: Services, row: AnnotationRow, split: Split) -> bool:
    """Whether it is a person's accepted label of a patient of the split."""
    if row.status != "accepted" or row.origin != HUMAN:
        logger.info("annotation %d is %s by now and left out", row.id, row.status)
        return False
    found = services.ledger.series.get(row.series_uid).split
    if found != split.value:
        logger.warning("annotation %d is left out: its series is of a patient in %s, not %s", row.id, found, split)
    return found == split.value


def _is_readable(cache: CaseCache, row: AnnotationRow) -> bool:
    try:
        cache.fill(row)
    except (NotFound, InvalidInput) as error:
        logger.warning("annotation %d of series %s is left out: %s", row.id, row.series_uid, error)
        return False
    return True
