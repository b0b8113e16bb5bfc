"""What people see of a task: each series with its state, and how the loop as a whole is doing.

Everything comes from the ledger in a handful of queries, of the series that are shown alone; the archive is not asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lib.core.errors import NotFound
from lib.core.estimated import EstimatedDice
from lib.ledger.casereads import Kind
from lib.ledger.queuerows import LeaseRow, QueueEntry
from lib.ledger.rows import AnnotationRow, JobRow, SeriesRow, VerdictRow
from lib.taskfile import Task
from lib.workflows.jobs import RETRAIN
from lib.workflows.services import Services

CaseState = Literal["labelled", "submitted", "held", "drafted", "todo", "new", "refused"]
STATES: tuple[CaseState, ...] = ("labelled", "submitted", "held", "drafted", "todo", "new", "refused")
"""labelled: an accepted human label; submitted: one that waits for review; held: one that is held back for it, with the
reason; drafted: a model's draft; todo: neither; new: not yet checked; refused: it makes no volume, with the reason."""

Counts = Mapping[Kind, Mapping[str, int]]
"""Numbers of series by kind and state, as the ledger counts them."""

RECENT = 20


@dataclass(frozen=True, slots=True)
class Case:
    """A series as an annotator sees it.

    Attributes:
        series: the ledger's row.
        state: see STATES.
        label: the accepted or submitted human annotation, if any; one that is held back before all others.
        draft: the latest draft of ours, if any.
        scores: by label, how much a human label would help; larger = label first; none of a series with a label.
        estimates: by label, how good the draft in force probably is; empty where its model has no estimates.
        lease: who works on it now, if anybody.
        place: its entry in the queue of the default strategy, if it is in there.
    """

    series: SeriesRow
    state: CaseState
    label: AnnotationRow | None
    draft: AnnotationRow | None
    scores: Mapping[str, float]
    estimates: Mapping[str, EstimatedDice]
    lease: LeaseRow | None
    place: QueueEntry | None


@dataclass(frozen=True, slots=True)
class Overview:
    """How the loop is doing.

    Attributes:
        counts: number of series by state.
        training: the newest retraining job, if any.
        open_jobs: number of queued and running jobs of any kind.
        waiting_uploads: SEG files on their way to the archive.
        verdicts: the newest promotions and refusals.
        failures: the newest jobs that failed.
        rejected: the newest segmentations that could not be used, with the reason.
        held: labels that are held back until a reviewer decides, with the reason, the oldest first.
    """

    counts: Mapping[CaseState, int]
    training: JobRow | None
    open_jobs: int
    waiting_uploads: int
    verdicts: Sequence[VerdictRow]
    failures: Sequence[JobRow]
    rejected: Sequence[AnnotationRow]
    held: Sequence[AnnotationRow]


@dataclass(frozen=True, slots=True)
class Page:
    """The beginning of a list.

    Attributes:
        cases: those that are shown.
        total: how many the list has.
        counts: number of all series of the task by state.
    """

    cases: Sequence[Case]
    total: int
    counts: Mapping[CaseState, int]


def page(
    services: Services, task: Task, state: str = "", limit: int | None = None, known: Counts | None = None
) -> Page:
    """The series that the task takes: queued ones first in their order, then the others by arrival.

    Args:
        services: the rooms.
        task: which task.
        state: only series in that state; "" = any.
        limit: how many are shown; None = all.
        known: what the ledger counted a moment ago; None = it counts now.
    """
    known = services.ledger.cases.counts(task.name) if known is None else known
    taken = [known[kind] for kind in known if _takes(task, *kind)]
    counts = {each: sum(states.get(each, 0) for states in taken) for each in STATES}
    total = sum(count for each, count in counts.items() if state in ("", each))
    takes, strategy = partial(_takes, task), services.settings.query.strategy
    uids = services.ledger.cases.page(task.name, strategy, task.modalities, takes, state, limit)
    rows = [row for row in services.ledger.series.some(uids) if _is_suitable(row, task)]
    return Page(_assemble(services, task, rows), total, counts)


def case(services: Services, task: Task, series_uid: str) -> Case:
    """One series of the task.

    Raises:
        NotFound: the ledger does not know the series, or the task does not take it; says which.
    """
    row = services.ledger.series.get(series_uid)
    reason = task.why_not(row.modality, row.description)
    if reason is not None:
        raise NotFound(reason)
    return _assemble(services, task, [row])[0]


def case_of_study(services: Services, task: Task, study_uid: str) -> Case:
    """The first case of a study.

    Raises:
        NotFound: the study has no series that the task takes.
    """
    rows = [row for row in services.ledger.series.of_study(study_uid) if _is_suitable(row, task)]
    if not rows:
        raise NotFound(f"study {study_uid} has no series for task {task.name}")
    return _assemble(services, task, rows[:1])[0]


def overview(services: Services, task: Task, counts: Mapping[CaseState, int]) -> Overview:
    """The state of the loop.

    Args:
        services: the rooms.
        task: which task.
        counts: number of its series by state.
    """
    ledger = services.ledger
    job_counts = ledger.jobs.counts()
    training = ledger.jobs.list(kind=RETRAIN, task=task.name, limit=1)
    rejected = ledger.annotations.list(status="rejected", limit=RECENT)
    return Overview(
        counts=counts,
        training=training[0] if training else None,
        open_jobs=job_counts.get("queued", 0) + job_counts.get("running", 0),
        waiting_uploads=ledger.outbox.open_count(),
        verdicts=ledger.models.list(task=task.name, limit=RECENT),
        failures=ledger.jobs.list(state="failed", limit=RECENT),
        rejected=[row for row in rejected if row.task in ("", task.name)],
        held=ledger.annotations.held(task.name),
    )


def _is_suitable(row: SeriesRow, task: Task) -> bool:
    return _takes(task, row.modality, row.description)


def _takes(task: Task, modality: str, description: str) -> bool:
    return task.why_not(modality, description) is None


def _assemble(services: Services, task: Task, rows: Sequence[SeriesRow]) -> list[Case]:
    ledger, uids = services.ledger, [row.series_uid for row in rows]
    annotations = ledger.cases.annotations(task.name, uids)
    labels = _newest(row for row in annotations if row.status in ("accepted", "submitted"))
    labels |= _newest(row for row in annotations if row.is_held)
    drafts = _newest(row for row in annotations if row.origin == "model" and row.status in ("draft", "superseded"))
    drafts |= _newest(row for row in annotations if row.origin == "model" and row.status == "draft")
    estimates = ledger.estimates.of([row.id for row in drafts.values() if row.status == "draft"])
    leases = {lease.series_uid: lease for lease in ledger.queue.leases(task.name)}
    wanted = [row.series_uid for row in rows if row.status == "ready" and row.series_uid not in labels]
    places = ledger.cases.places(task.name, services.settings.query.strategy, wanted)
    scores = ledger.cases.entropies(task.name, ledger.models.serving(task.name), wanted)
    return [
        Case(
            series=row,
            state=_state(row, labels.get(row.series_uid), draft := drafts.get(row.series_uid)),
            label=labels.get(row.series_uid),
            draft=draft,
            scores=scores.get(row.series_uid, {}),
            estimates=estimates.get(draft.id, {}) if draft else {},
            lease=leases.get(row.series_uid),
            place=places.get(row.series_uid),
        )
        for row in rows
    ]


def _newest(rows: Iterable[AnnotationRow]) -> dict[str, AnnotationRow]:
    """By series, the first of rows that come newest first."""
    found: dict[str, AnnotationRow] = {}
    for row in rows:
        found.setdefault(row.series_uid, row)
    return found


def _state(row: SeriesRow, label: AnnotationRow | None, draft: AnnotationRow | None) -> CaseState:
    if row.status in ("new", "refused"):
        return "refused" if row.status == "refused" else "new"
    if label is not None and label.is_held:
        return "held"
    if label is not None:
        return "labelled" if label.status == "accepted" else "submitted"
    return "drafted" if draft is not None and draft.status == "draft" else "todo"
