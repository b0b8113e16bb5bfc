"""What the morning report says of labels, annotators and data that failed the checks: from rows of the ledger."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from statistics import median

from lib.ledger.rows import AnnotationRow
from lib.taskfile import Task
from lib.workflows.report import Corrections, Failure
from lib.workflows.services import Services

UNKNOWN = "unknown"
MOST_FAILURES = 100


def learned(rows: Sequence[AnnotationRow], sites: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Annotations by label that they show, by annotator and by site, the most frequent first.

    Args:
        rows: what was learned from.
        sites: institution by series; empty where it is unknown.
    """
    counts = {
        "label": Counter(name for row in rows for name, voxels in row.voxels.items() if voxels),
        "annotator": Counter(row.author for row in rows),
        "site": Counter(sites.get(row.series_uid) or UNKNOWN for row in rows),
    }
    return {by: dict(sorted(count.items(), key=lambda item: (-item[1], item[0]))) for by, count in counts.items()}


def corrections(rows: Sequence[AnnotationRow]) -> dict[str, Corrections]:
    """What each annotator changed, in the order of their names."""
    return {name: _of([row for row in rows if row.author == name]) for name in sorted({row.author for row in rows})}


def failures(services: Services, task: Task, left_out: Collection[int]) -> tuple[Failure, ...]:
    """Series that were refused, SEGs that could not be used, labels held back and planned ones that were left out.

    Args:
        services: the rooms.
        task: that was trained; other tasks' SEGs do not count.
        left_out: ids of annotations.
    """
    annotations = [Failure("annotation", str(one), "could not be read, or is no label any more") for one in left_out]
    held = [
        Failure("label held back", str(row.id), row.held_reason or "no reason given")
        for row in services.ledger.annotations.list(task.name, "submitted", limit=None)
        if row.is_held
    ]
    segs = [
        Failure("SEG", row.sop_instance_uid or "", row.reason)
        for row in services.ledger.annotations.unusable()
        if row.task in (task.name, "")
    ]
    refused = services.ledger.series.list(status="refused")
    newest = sorted(refused, key=lambda row: row.updated_at, reverse=True)
    series = [Failure("series", row.series_uid, row.reason) for row in newest]
    found = (*annotations, *held, *reversed(segs), *series)
    more = len(found) - MOST_FAILURES
    return found if more <= 0 else (*found[:MOST_FAILURES], Failure("more", str(more), "see: transunet-label status"))


def _of(rows: Sequence[AnnotationRow]) -> Corrections:
    changed = [row.changed_voxels for row in rows if row.changed_voxels is not None]
    return Corrections(
        annotations=len(rows),
        drafts=len(changed),
        median_changed=float(median(changed)) if changed else None,
        most_changed=max(changed, default=None),
    )
