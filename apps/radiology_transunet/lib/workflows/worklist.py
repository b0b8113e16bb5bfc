"""What people see of a task: each series with its state, and how the loop as a whole is doing.

Everything comes from the ledger in a handful of queries, whatever the number of series; the archive is not asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lib.core.errors import NotFound
from lib.ledger.queuerows import Candidate, LeaseRow, QueueEntry
from lib.ledger.rows import AnnotationRow, JobRow, SeriesRow, VerdictRow
from lib.taskfile import Task
from lib.workflows.jobs import RETRAIN
from lib.workflows.services import Services

CaseState = Literal["labelled", "submitted", "held", "drafted", "todo", "new", "refused"]
STATES: tuple[CaseState, ...] = ("labelled", "submitted", "held", "drafted", "todo", "new", "refused")
"""labelled: an accepted human label; submitted: one that waits for review; held: one that is held back for it, with the
reason; drafted: a model's draft; todo: neither; new: not yet checked; refused: it makes no volume, with the reason."""

MAX_ROWS = 100_000
RECENT = 20


@dataclass(frozen=True, slots=True)
class Case:
    """A series as an annotator sees it.

    Attributes:
        series: the ledger's row.
        state: see STATES.
        label: the accepted or submitted human annotation, if any; one that is held back before all others.
        draft: the latest draft of ours, if any.
        scores: by label, how much a human label would help; larger = label first.
        lease: who works on it now, if anybody.
        place: its entry in the queue of the default strategy, if it is in there.
    """

    series: SeriesRow
    state: CaseState
    label: AnnotationRow | None
    draft: AnnotationRow | None
    scores: Mapping[str, float]
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


def cases(services: Services, task: Task) -> tuple[Case, ...]:
    """Every series of the archive that the task takes: queued ones first in their order, then the others by arrival."""
    rows = [row for row in services.ledger.series.list() if row.status != "gone" and _is_suitable(row, task)]
    made = _assemble(services, task, rows)
    return tuple(sorted(made, key=lambda case: (case.place is None, case.place.rank if case.place else 0)))


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
    rows = [row for row in services.ledger.series.list() if row.study_uid == study_uid and _is_suitable(row, task)]
    if not rows:
        raise NotFound(f"study {study_uid} has no series for task {task.name}")
    return _assemble(services, task, rows[:1])[0]


def overview(services: Services, task: Task, of: Iterable[Case]) -> Overview:
    """The state of the loop.

    Args:
        services: the rooms.
        task: which task.
        of: its cases.
    """
    ledger = services.ledger
    states = [case.state for case in of]
    job_counts = ledger.jobs.counts()
    training = ledger.jobs.list(kind=RETRAIN, task=task.name, limit=1)
    rejected = ledger.annotations.list(status="rejected", limit=RECENT)
    return Overview(
        counts={state: states.count(state) for state in STATES},
        training=training[0] if training else None,
        open_jobs=job_counts.get("queued", 0) + job_counts.get("running", 0),
        waiting_uploads=ledger.outbox.open_count(),
        verdicts=ledger.models.list(task=task.name, limit=RECENT),
        failures=ledger.jobs.list(state="failed", limit=RECENT),
        rejected=[row for row in rejected if row.task in ("", task.name)],
        held=ledger.annotations.held(task.name),
    )


def _is_suitable(row: SeriesRow, task: Task) -> bool:
    return task.why_not(row.modality, row.description) is None


def _assemble(services: Services, task: Task, rows: Sequence[SeriesRow]) -> list[Case]:
    ledger = services.ledger
    only = rows[0].series_uid if len(rows) == 1 else None
    annotations = ledger.annotations.list(task=task.name, series_uid=only, limit=MAX_ROWS)
    labels = _newest(row for row in annotations if row.status in ("accepted", "submitted"))
    labels |= _newest(row for row in annotations if row.is_held)
    drafts = _newest(row for row in annotations if row.origin == "model" and row.status in ("draft", "superseded"))
    leases = {lease.series_uid: lease for lease in ledger.queue.leases(task.name)}
    head = ledger.queue.head(task.name, services.settings.query.strategy, MAX_ROWS)
    places = {entry.series_uid: entry for entry in head}
    found = ledger.queue.candidates(task.name, ledger.models.serving(task.name))
    candidates: Mapping[str, Candidate] = {c.series_uid: c for c in found}
    return [
        Case(
            series=row,
            state=_state(row, labels.get(row.series_uid), drafts.get(row.series_uid)),
            label=labels.get(row.series_uid),
            draft=drafts.get(row.series_uid),
            scores=_entropies(candidates.get(row.series_uid)),
            lease=leases.get(row.series_uid),
            place=places.get(row.series_uid) if row.series_uid in candidates else None,
        )
        for row in rows
    ]


def _entropies(candidate: Candidate | None) -> dict[str, float]:
    return {} if candidate is None else {label: score.entropy for label, score in candidate.scores.items()}


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
