"""How far the demo has come, read from the ledger; and what it writes down at the end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib.demo.cohort import CohortCase
    from lib.ledger.rows import AnnotationRow, JobRow, SeriesRow
    from lib.registry.versions import ModelVersion
    from lib.taskfile import Task
    from lib.workflows.services import Services

MAX_JOBS = 10_000


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the cohort stands.

    Attributes:
        ready: series that passed the check.
        refused: by title of the case, why its series cannot be used.
        labelled: cases whose human label is accepted.
        unread: labelled cases of whose label nothing is known yet.
        awaited: of these, those that a first training looks at; it has no champion to be held against, so the gate's
            cases may come later.
        rejected: by title, why its label cannot be used, or is held back for a reviewer.
        drafted: cases to draft that have a draft of ours, delivered to the archive.
        waiting: cases to draft that neither have a draft or a human label nor failed.
        failed: by title, why its draft failed.
    """

    ready: int
    refused: Mapping[str, str]
    labelled: int
    unread: int
    awaited: int
    rejected: Mapping[str, str]
    drafted: int
    waiting: int
    failed: Mapping[str, str]


def observe(services: "Services", task: "Task", cohort: "Sequence[CohortCase]") -> Standing:
    """Read where the cohort stands."""
    from lib.workflows.jobs import DRAFT

    ledger = services.ledger
    rows = {row.series_uid: row for row in ledger.series.list()}
    annotations = ledger.annotations.list(limit=None)
    failures = ledger.jobs.list(kind=DRAFT, state="failed", task=task.name, limit=MAX_JOBS)
    return judge(cohort, rows, [row for row in annotations if row.task in ("", task.name)], failures)


def judge(
    cohort: "Sequence[CohortCase]",
    rows: "Mapping[str, SeriesRow]",
    annotations: "Iterable[AnnotationRow]",
    failures: "Iterable[JobRow]",
) -> Standing:
    """Where the cohort stands, from rows of the ledger.

    Args:
        cohort: the demo's cases.
        rows: series by their UID.
        annotations: of the task, and those that fit no task.
        failures: draft jobs that failed.
    """
    from lib.demo.cohort import GATE

    found = list(annotations)
    human = {row.series_uid for row in found if row.origin == "human" and row.status in ("accepted", "submitted")}
    accepted = {row.series_uid for row in found if row.origin == "human" and row.status == "accepted"}
    drafted = {row.series_uid for row in found if row.origin == "model" and _is_delivered(row)}
    rejected = {row.seg_series_uid: row.reason for row in found if row.status == "rejected"}
    rejected |= {row.seg_series_uid: f"held back: {row.held_reason}" for row in found if row.is_held}
    failed = {str(job.payload.get("series_uid")): job.error for job in failures}
    refused = {case.title: rows[case.series_uid].reason for case in cohort if _is_refused(rows, case)}
    to_draft = [case for case in cohort if not case.labelled and case.title not in refused]
    unusable = {
        case.title: rejected[case.seg_series_uid]
        for case in cohort
        if case.labelled and case.seg_series_uid in rejected and case.series_uid not in accepted
    }
    known = {case.title for case in cohort if case.series_uid in accepted} | unusable.keys() | refused.keys()
    unread = [case for case in cohort if case.labelled and case.title not in known]
    undrafted = [case for case in to_draft if case.series_uid not in drafted | human]
    return Standing(
        ready=sum(case.series_uid in rows and rows[case.series_uid].status == "ready" for case in cohort),
        refused=refused,
        labelled=sum(case.labelled and case.series_uid in accepted for case in cohort),
        unread=len(unread),
        awaited=sum(case.role != GATE for case in unread),
        rejected=unusable,
        drafted=sum(case.series_uid in drafted for case in to_draft),
        waiting=sum(case.series_uid not in failed for case in undrafted),
        failed={case.title: failed[case.series_uid] for case in undrafted if case.series_uid in failed},
    )


def _is_refused(rows: "Mapping[str, SeriesRow]", case: "CohortCase") -> bool:
    return case.series_uid in rows and rows[case.series_uid].status == "refused"


def _is_delivered(row: "AnnotationRow") -> bool:
    """Whether a draft has reached the archive, or has nothing to deliver."""
    return row.nothing_found or row.stored_at is not None


def heldout_dice(model: "ModelVersion", names: Sequence[str]) -> dict[str, float]:
    """The figures that the model was registered with: the mean, and each label that has a value."""
    figures = {"mean": model.metrics.get("mean_dice")} | {name: model.metrics.get(f"dice/{name}") for name in names}
    return {name: round(value, 4) for name, value in figures.items() if value is not None}


def report(
    cohort: "Sequence[CohortCase]",
    standing: Standing,
    model: "ModelVersion",
    names: Sequence[str],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What happened, for --json; the addresses are added by the caller."""
    return {
        "series": len(cohort),
        "labelled": standing.labelled,
        "drafted": standing.drafted,
        "heldout_dice": heldout_dice(model, names),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "model_version": model.version,
    }
