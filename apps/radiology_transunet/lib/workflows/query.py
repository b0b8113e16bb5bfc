"""Which case next: ranked in the background, handed out under a lease.

`next` takes the first free row of a queue that was materialised before and never waits for a model. The queue is built
anew when scores, labels or series have changed. The strategy ranks pool cases alone; a share of the pool, and the
patients that no model learns from, are drawn at random and take turns with it, in every queue.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import MappingProxyType

from lib.core.errors import InvalidInput
from lib.ledger.queuerows import Candidate, LeaseRow
from lib.selection.ranking import Ranking, by_entropy, random_order, score_matrix
from lib.taskfile import Task
from lib.workflows.lineup import line_up
from lib.workflows.presegment import suitable_series
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

Rank = Callable[[Sequence[Candidate], Task, int], Ranking]


def _entropy(candidates: Sequence[Candidate], task: Task, seed: int) -> Ranking:
    ids = [candidate.series_uid for candidate in candidates]
    scores = score_matrix([candidate.scores for candidate in candidates], task.schema.names)
    return by_entropy(ids, scores, seed, task.schema.names)


def _random(candidates: Sequence[Candidate], task: Task, seed: int) -> Ranking:
    return random_order([candidate.series_uid for candidate in candidates], seed)


RANKERS: Mapping[str, Rank] = MappingProxyType({"entropy": _entropy, "random": _random})
STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "entropy": "the case on whose predicted foreground the model is least sure",
        "random": "a case drawn at random",
    }
)


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


def next_case(services: Services, task: Task, strategy: str = "", annotator: str = "") -> Assignment | None:
    """The next case for an annotator under a lease, or None when no case is free.

    Who holds an unexpired lease of the task gets that case again.

    Raises:
        InvalidInput: no such strategy; lists those that exist.
    """
    strategy = known_strategy(strategy or services.settings.query.strategy)
    lease_s = services.settings.query.lease_s
    lease = services.ledger.queue.take(task.name, strategy, annotator, lease_s)
    return _assignment(task, lease) if lease is not None else None


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
    if name not in RANKERS:
        raise InvalidInput(f"strategy must be one of {', '.join(RANKERS)}, got {name!r}")
    return name


def refresh_queues(services: Services, task: Task) -> int:
    """Order what may be labelled and materialise the queue of every strategy; how many cases are in it."""
    suitable = suitable_series(services, task)
    candidates = [c for c in services.ledger.queue.candidates(task.name) if c.series_uid in suitable]
    turn = services.ledger.queue.turns(task.name)
    for strategy, rank in RANKERS.items():
        made = line_up(candidates, strategy, partial(_rank, rank, task), services.settings.query, turn)
        services.ledger.queue.rebuild(task.name, strategy, made.places, made.lanes)
    return len(candidates)


def _rank(rank: Rank, task: Task, candidates: Sequence[Candidate], seed: int) -> Ranking:
    return rank(candidates, task, seed)


def _assignment(task: Task, lease: LeaseRow) -> Assignment:
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
    )


def viewer_path(study_uid: str, series_uid: str, task: str) -> str:
    """Path and query that open a series of a study in the viewer's segmentation mode; the task is for our panel."""
    return f"/segmentation?StudyInstanceUIDs={study_uid}&initialSeriesInstanceUID={series_uid}&task={task}"
