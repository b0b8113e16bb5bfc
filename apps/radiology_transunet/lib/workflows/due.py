"""Is a retraining due? The rules are pure; figures in, answer and reason out.

New labels make a training due: enough of them, or a few that have waited long, since the last training or, before the
first one, since the version that serves was registered. Labels that a finished training has seen without a promotion
make none due: the same night would end the same way.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from lib.core.errors import ManifestMismatch, NotFound
from lib.ledger.rows import AnnotationRow, JobRow
from lib.registry.versions import ModelVersion
from lib.taskfile import Task
from lib.workflows.config import RetrainConfig
from lib.workflows.jobs import RETRAIN
from lib.workflows.plan import POOL
from lib.workflows.services import Services

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY_S = 86_400.0
OPEN = ("queued", "running")


@dataclass(frozen=True, slots=True)
class Standing:
    """What the rules look at.

    Attributes:
        labels: accepted annotations of patients in the pool.
        new: of these, how many the champion has not learned from.
        unseen: of the new ones, how many no finished training could see.
        champion: version that serves, None when none does.
        days: since the last finished training was asked for; None before the first one.
        open_job: id of a training that is queued or running, or None.
        age: days since the champion was registered; None when none serves.
    """

    labels: int
    new: int
    unseen: int
    champion: int | None
    days: float | None
    open_job: int | None = None
    age: float | None = None

    @property
    def waited(self) -> tuple[float, str]:
        """Days for which new labels may have waited at most, and since when, in words."""
        if self.days is not None:
            return self.days, "the last training"
        return self.age or 0.0, f"version {self.champion} was registered, which no training has followed"


@dataclass(frozen=True, slots=True)
class Due:
    """The answer.

    Attributes:
        is_due: whether a training should start now.
        why: in words, with the figures, either way.
        open_job: id of a training that is queued or running, which comes before any other one; or None.
    """

    is_due: bool
    why: str
    open_job: int | None = None


def decide(standing: Standing, config: RetrainConfig) -> Due:
    """Whether a training is due.

    Args:
        standing: of the task.
        config: `min_labels`, `min_new` and `max_days` count here.
    """
    if standing.open_job is not None:
        return Due(False, f"job {standing.open_job} is queued or running already", standing.open_job)
    if standing.labels < config.min_labels:
        return Due(False, f"{standing.labels} accepted labels of the pool, a training needs {config.min_labels}")
    if not standing.unseen:
        return Due(False, "no accepted label is new since the last training")
    if standing.champion is None:
        return Due(True, f"no model serves yet and {standing.labels} labels are accepted")
    figures = f"{standing.new} accepted labels that version {standing.champion} has not learned from"
    if standing.new >= config.min_new:
        return Due(True, f"{figures}; {config.min_new} make it due")
    days, event = standing.waited
    waited = f"{days:.1f} days since {event}"
    if config.max_days and days >= config.max_days:
        return Due(True, f"{figures}, {waited}; {config.max_days:g} days make it due")
    by_time = f" or {config.max_days:g} days" if config.max_days else ""
    return Due(False, f"{figures}, {waited}; {config.min_new} labels{by_time} make it due")


def due(services: Services, task: Task) -> Due:
    """Whether a training of the task is due now."""
    return decide(standing(services, task), services.settings.retrain)


def standing(services: Services, task: Task) -> Standing:
    """What the rules look at, from ledger and registry."""
    jobs = services.ledger.jobs.list(kind=RETRAIN, task=task.name)  # the newest first
    last = next((job for job in jobs if job.state == "done"), None)
    now = services.ledger.jobs.clock()
    champion, learned = _champion(services, task)
    labels = services.ledger.annotations.accepted(task.name, POOL)
    new = [row for row in labels if row.id not in learned]
    return Standing(
        labels=len(labels),
        new=len(new),
        unseen=len(_since(new, last)),
        champion=None if champion is None else champion.version,
        days=None if last is None else _days(last.created_at, now),
        open_job=next((job.id for job in jobs if job.state in OPEN), None),
        age=None if champion is None else _days(champion.created_at, now),
    )


def _champion(services: Services, task: Task) -> tuple[ModelVersion | None, frozenset[int]]:
    """The version that serves and the annotations that it learned from; none where its manifest cannot be read."""
    from lib.inference.model import read_manifest

    try:
        model = services.registry.champion(task.name)
    except NotFound:
        return None, frozenset()
    if model is None:
        return None, frozenset()
    try:
        return model, frozenset(read_manifest(model.folder).annotations)
    except (NotFound, ManifestMismatch):
        return model, frozenset()


def _days(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds() / DAY_S


def _since(rows: "Sequence[AnnotationRow]", last: JobRow | None) -> "list[AnnotationRow]":
    """Those that became labels after a training was asked for."""
    return [row for row in rows if last is None or _accepted_at(row) > last.created_at]


def _accepted_at(row: AnnotationRow) -> datetime:
    return row.reviewed_at or row.created_at
