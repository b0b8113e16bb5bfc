"""Which case next: ranked in the background, handed out under a lease.

`next` takes the first free row of a queue that was materialised before and never waits for a model. The queue is built
anew when scores, labels or series have changed. The strategy ranks pool cases alone; a share of the pool, and the
patients that no model learns from, are drawn at random and take turns with it, in every queue.

Queues are kept for the strategies in use: the configured one, `random`, and those that handed out a case within a day.
Any other is built when it is asked for, at once while there are few cases, else by the worker.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from lib.core.errors import Conflict, InvalidInput
from lib.ledger.queuerows import Candidate, LabelledCase, LeaseRow, QueueEntry
from lib.selection.embeddings import covering
from lib.selection.pool import NO_MODEL
from lib.selection.ranking import Ranking
from lib.selection.strategies import STRATEGIES
from lib.taskfile import Task
from lib.workflows.availability import required_strategy
from lib.workflows.casepool import Moment, pool_of
from lib.workflows.collect import Split
from lib.workflows.jobs import RANK, rank_key
from lib.workflows.lineup import line_up
from lib.workflows.presegment import suitable_series
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

IN_USE = timedelta(days=1)
"""For how long a queue is kept after it handed out a case."""
STALE = timedelta(hours=1)
"""A queue of that age is not kept, or nobody is there to keep it."""
MOST_AT_ONCE = 10_000
"""Cases that are named at once; no night drafts more."""
SMALL_POOL = 2000
"""Ready series up to which a queue is built while somebody waits for its first case; that takes a second or two."""


class QueueNotReady(Conflict):
    """The worker is to build the queue first."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A case handed to an annotator.

    Attributes:
        series_uid: what to label.
        study_uid: its study.
        task: name of the task.
        strategy: that chose it.
        score: that it was chosen by, None when it was never scored; larger = label first.
        why: the choice in words.
        lane: how it was chosen: by the strategy of that name, "random" or "held-out".
        lease_until: until when it belongs to the annotator.
        viewer_path: path and query of the viewer on the server.
        model_version: of the model that scored it: the champion, or the last one that did; None when none did.
        scored_at: when; None when none did.
        champion_version: of the model that serves, as the ledger has it; None when none does.
    """

    series_uid: str
    study_uid: str
    task: str
    strategy: str
    score: float | None
    why: str
    lane: str
    lease_until: datetime
    viewer_path: str
    model_version: int | None
    scored_at: datetime | None
    champion_version: int | None


def next_case(services: Services, task: Task, strategy: str = "", annotator: str = "") -> Assignment | None:
    """The next case for an annotator under a lease, or None when no case is free; `why_none` says why.

    Who holds an unexpired lease of the task gets that case again.

    Raises:
        InvalidInput: no such strategy, or one that lacks what it ranks by; lists the others.
        QueueNotReady: the strategy has no queue yet, and there are too many cases to build it at once.
    """
    strategy = required_strategy(services.settings, strategy)
    is_there = _provide_queue(services, task, strategy)
    lease = services.ledger.queue.take(task.name, strategy, annotator, services.settings.query.lease_s)
    if lease is None and not is_there:
        raise _not_ready(services, strategy)
    return _assignment(services, task, lease) if lease is not None else None


def next_free(services: Services, task: Task, count: int, strategy: str = "") -> list[QueueEntry]:
    """The next free cases, to prepare them; nobody holds them, and none is taken from anybody.

    Raises:
        InvalidInput: no such strategy, or a count out of range.
        QueueNotReady: see `next_case`.
    """
    strategy = required_strategy(services.settings, strategy)
    if not 1 <= count <= MOST_AT_ONCE:
        raise InvalidInput(f"the number of cases must be from 1 to {MOST_AT_ONCE}, got {count}")
    if not _provide_queue(services, task, strategy):
        raise _not_ready(services, strategy)
    return services.ledger.queue.head(task.name, strategy, count, only_free=True)


def why_none(services: Services, task: Task, annotator: str) -> str:
    """Why no case is free, in words."""
    found = services.ledger.queue.tally(task.name, annotator)
    if not found.ready:
        return "no case is free: the archive holds no series that is ready to be labelled"
    skipped = f", {found.skipped} you gave back a while ago" if found.skipped else ""
    return (
        f"no case is free: of {found.ready} ready series {found.labelled} are labelled, {found.held} in somebody's "
        f"hands{skipped}; any others are not for this task, or arrived within the last minute"
    )


def hold(services: Services, task: Task, series_uid: str, annotator: str) -> LeaseRow:
    """A lease on a case that an annotator opens by choice, so that what is saved has an author.

    Raises:
        Conflict: somebody else holds it, or the series is not ready.
        NotFound: no such series.
    """
    return services.ledger.queue.lease(series_uid, task.name, annotator, services.settings.query.lease_s)


def release(services: Services, task: Task, series_uid: str, annotator: str) -> None:
    """Give a case back unlabelled; for the time of a lease it is offered to others alone."""
    services.ledger.queue.skip(series_uid, task.name, annotator, services.settings.query.lease_s)


def known_strategy(name: str) -> str:
    """The name, when there is such a strategy."""
    if name not in STRATEGIES:
        raise InvalidInput(f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    return name


def refresh_queues(services: Services, task: Task) -> int:
    """Order what may be labelled and build the queues of the strategies in use; how many cases are in each."""
    queue, configured = services.ledger.queue, services.settings.query.strategy
    asked = queue.asked_for(task.name, queue.clock() - IN_USE)
    return build_queues(services, task, [name for name in STRATEGIES if name in {configured, "random", *asked}])


def build_queues(services: Services, task: Task, strategies: Collection[str]) -> int:
    """Order what may be labelled by each of the strategies, and put the queues in force; how many cases are in each."""
    queue, suitable = services.ledger.queue, suitable_series(services, task)
    moment = _moment(services, task, any(STRATEGIES[name].by_embedding for name in strategies))
    found = queue.candidates(task.name, moment.champion, moment.compared)
    candidates = [c for c in found if c.series_uid in suitable]
    labelled = queue.labelled(task.name, Split.POOL.value, moment.compared)
    turn = queue.turns(task.name)
    for name in strategies:
        rank = partial(_rank, services, task, name, labelled, moment)
        made = line_up(candidates, name, rank, services.settings.query, turn)
        queue.rebuild(task.name, name, made.places, made.lanes)
    return len(candidates)


def _moment(services: Services, task: Task, by_embedding: bool) -> Moment:
    """What serves now, and the version whose embeddings are compared if any are to be."""
    champion = services.ledger.models.serving(task.name)
    compared = NO_MODEL
    if by_embedding:
        counts = services.ledger.scorings.embedded(task.name, Split.POOL.value)
        compared = covering(counts, NO_MODEL if champion is None else champion)
    return Moment(champion, None if compared == NO_MODEL else compared, services.ledger.queue.clock())


def _rank(
    services: Services,
    task: Task,
    name: str,
    labelled: Sequence[LabelledCase],
    moment: Moment,
    cases: Sequence[Candidate],
    seed: int,
) -> Ranking:
    strategy = STRATEGIES[name]
    pool = pool_of(task, cases, labelled, moment, with_values=strategy.by_model)
    return strategy(pool, seed, services.settings.selection)


def _provide_queue(services: Services, task: Task, strategy: str) -> bool:
    """See that the strategy has a fresh queue, as far as that can be done while somebody waits; whether it has any."""
    queue = services.ledger.queue
    built = queue.built_at(task.name, strategy)
    if built is not None and queue.clock() - built < STALE:
        return True
    if services.ledger.series.counts()["ready"] <= SMALL_POOL:
        build_queues(services, task, (strategy,))
        return True
    payload = {"strategy": strategy}
    services.ledger.jobs.add(RANK, task.name, payload, rank_key(task.name, strategy), services.settings.worker.attempts)
    return built is not None


def _not_ready(services: Services, strategy: str) -> QueueNotReady:
    kept = dict.fromkeys((services.settings.query.strategy, "random"))
    return QueueNotReady(
        f"{strategy} has no queue yet: the worker is told to build it, which takes a minute or so; "
        f"until then ask for {' or '.join(name for name in kept if name != strategy)}"
    )


def _assignment(services: Services, task: Task, lease: LeaseRow) -> Assignment:
    champion = services.ledger.models.serving(task.name)
    version, scored_at = services.ledger.scorings.newest(lease.series_uid, task.name, champion) or (None, None)
    return Assignment(
        series_uid=lease.series_uid,
        study_uid=lease.study_uid,
        task=task.name,
        strategy=lease.strategy,
        score=lease.score,
        why=lease.why,
        lane=lease.lane,
        lease_until=lease.expires_at,
        viewer_path=viewer_path(lease.study_uid, lease.series_uid, task.name),
        model_version=version,
        scored_at=scored_at,
        champion_version=champion,
    )


def viewer_path(study_uid: str, series_uid: str, task: str) -> str:
    """Path and query that open a series of a study in the viewer's segmentation mode; the task is for our panel."""
    return f"/segmentation?StudyInstanceUIDs={study_uid}&initialSeriesInstanceUID={series_uid}&task={task}"
