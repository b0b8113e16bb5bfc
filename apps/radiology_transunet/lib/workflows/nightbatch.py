"""The next cases of a strategy, drafted before others: what a night prepares for the morning's annotators."""

from dataclasses import dataclass

from lib.ledger.queuerows import QueueEntry
from lib.taskfile import Task
from lib.workflows.jobs import DRAFT
from lib.workflows.models import require_champion
from lib.workflows.presegment import draft_job
from lib.workflows.query import next_free
from lib.workflows.services import Services


@dataclass(frozen=True, slots=True)
class NightBatch:
    """What a night prepares.

    Attributes:
        cases: the next free ones, the first in front; nobody holds them.
        drafts: series of them that wait for a draft of the champion, in the order in which they get it.
    """

    cases: tuple[QueueEntry, ...]
    drafts: tuple[str, ...]


def draft_next(services: Services, task: Task, count: int, strategy: str = "") -> NightBatch:
    """See that the next free cases have a draft of the champion, in their order and before all other drafts.

    A draft that was asked for before is brought forward; one that rests after a failure is tried at once. With
    `presegment.redraft` off, a series that has a draft of any version keeps it.

    Raises:
        InvalidInput: no such strategy, or a count out of range.
        NoChampion: no model serves the task.
        QueueNotReady: the strategy has no queue yet.
    """
    champion = require_champion(services, task)
    cases = tuple(next_free(services, task, count, strategy))
    annotations, jobs = services.ledger.annotations, services.ledger.jobs
    lacking = frozenset(annotations.undrafted(task.name, champion.version))
    drafts = tuple(case.series_uid for case in cases if case.series_uid in lacking)
    if not services.settings.presegment.redraft:
        drafts = tuple(uid for uid in drafts if annotations.latest_draft(uid, task.name) is None)
    asked = [draft_job(task, uid, champion.version) for uid in drafts]
    jobs.add_many(DRAFT, task.name, asked, services.settings.worker.attempts)
    jobs.bring_forward(DRAFT, task.name, [key for _, key in asked])
    return NightBatch(cases, drafts)
