"""Cases and the state of the loop as JSON for our own pages and the viewer's panel."""

import math
from collections.abc import Iterable
from typing import Any

from lib.ledger.rows import AnnotationRow, JobRow
from lib.server.replies import JOB_STATES, iso
from lib.taskfile import Task
from lib.workflows.drawn import voxel_ml
from lib.workflows.query import viewer_path
from lib.workflows.worklist import Case, Overview


def task_json(task: Task) -> dict[str, Any]:
    """Name, description and labels with colours."""
    labels = [{"name": label.name, "id": label.id, "color": list(label.color)} for label in task.schema]
    return {"name": task.name, "description": task.description, "labels": labels}


def case_json(case: Case, task: str) -> dict[str, Any]:
    """One series, as a case of a task."""
    row = case.series
    return {
        "series": row.series_uid,
        "study": row.study_uid,
        "modality": row.modality,
        "description": row.description,
        "date": row.date,
        "instances": row.instances,
        "voxel_ml": voxel_ml(row),
        "patient": row.patient[:8],
        "split": row.split,
        "institution": row.institution,
        "state": case.state,
        "reason": row.reason,
        "findings": list(row.findings),
        "arrived": iso(row.created_at),
        "viewer": viewer_path(row.study_uid, row.series_uid, task),
        "rank": case.place.rank + 1 if case.place else None,
        "why": case.place.why if case.place else "",
        "score": finite(case.place.score) if case.place else None,
        "scores": {name: finite(score) for name, score in case.scores.items()},
        "estimated_dice": {name: estimate.told() for name, estimate in case.estimates.items()},
        "holder": case.lease.annotator if case.lease else None,
        "held_until": iso(case.lease.expires_at) if case.lease else None,
        "draft": annotation_json(case.draft),
        "label": annotation_json(case.label),
    }


def annotation_json(row: AnnotationRow | None) -> dict[str, Any] | None:
    """One annotation."""
    if row is None:
        return None
    return {
        "id": row.id,
        "status": row.status,
        "author": row.author,
        "version": row.model_version,
        "seg_series": row.seg_series_uid,
        "stored": row.stored_at is not None,
        "nothing_found": row.nothing_found,
        "voxels": dict(row.voxels),
        "changed_voxels": row.changed_voxels,
        "parent": row.parent_id,
        "reason": row.reason,
        "held": row.held_reason if row.is_held else "",
        "created": iso(row.created_at),
    }


def overview_json(overview: Overview) -> dict[str, Any]:
    """The state of the loop."""
    return {
        "counts": dict(overview.counts),
        "training": job_json(overview.training) if overview.training else None,
        "open_jobs": overview.open_jobs,
        "waiting_uploads": overview.waiting_uploads,
        "verdicts": [
            {"version": row.version, "verdict": row.verdict, "reason": row.reason, "at": iso(row.created_at)}
            for row in overview.verdicts
        ],
        "failures": [job_json(row) for row in overview.failures],
        "rejected": [
            {"seg": row.sop_instance_uid, "series": row.series_uid, "reason": row.reason, "at": iso(row.created_at)}
            for row in overview.rejected
        ],
        "held": [
            {"annotation": row.id, "series": row.series_uid, "author": row.author, "reason": row.held_reason}
            for row in overview.held
        ],
    }


def job_json(row: JobRow) -> dict[str, Any]:
    """One job."""
    return {
        "id": row.id,
        "kind": row.kind,
        "state": JOB_STATES[row.state],
        "progress": row.progress,
        "message": row.message,
        "error": row.error,
        "series": row.payload.get("series_uid"),
        "since": iso(row.started_at or row.created_at),
        "ended": iso(row.finished_at),
    }


def cases_json(cases: Iterable[Case], task: str) -> list[dict[str, Any]]:
    """Many series, as cases of a task."""
    return [case_json(case, task) for case in cases]


def finite(value: float | None) -> float | None:
    """The number, or None for one that JSON cannot hold."""
    return value if value is not None and math.isfinite(value) else None
