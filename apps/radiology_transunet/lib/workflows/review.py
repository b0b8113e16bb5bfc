"""Human labels: taken in from viewers and uploads, accepted or rejected by reviewers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

import numpy as np

from lib.core.errors import InvalidSegmentation, LabelError, NotFound
from lib.core.values import Mask
from lib.dicom.seg import SegOrigin, SegSummary, read_seg
from lib.dicom.series import SourceSeries
from lib.dicom.writer import new_uid
from lib.ledger.corrections import CorrectionRow
from lib.ledger.rows import AnnotationRow, AnnotationStatus, NewHuman
from lib.taskfile import Task
from lib.workflows.agreement import draft_dice
from lib.workflows.arrivals import accepts_at_once, require_known
from lib.workflows.holdback import why_held
from lib.workflows.presegment import load_series, seg_file
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

UNKNOWN_AUTHOR = "unknown (viewer)"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a human label comes from.

    Attributes:
        author: who drew it.
        parent_id: the draft that was corrected, or None.
        changed_voxels: voxels that differ from that draft, or None without one.
        agreement: Dice with that draft by label, for the labels that either of both shows.
        held_reason: why a reviewer has to look first, in words; "" = nobody has to.
    """

    author: str
    parent_id: int | None
    changed_voxels: int | None
    agreement: Mapping[str, float] = field(default_factory=dict)
    held_reason: str = ""


def submit_mask(services: Services, task: Task, source: SourceSeries, mask: Mask, author: str = "") -> int:
    """Take in a label that a client uploads, and put its SEG into the outbox for the archive.

    Args:
        services: the rooms.
        task: whose labels the mask holds.
        source: the labelled series.
        mask: on the grid of the series.
        author: who drew it; empty = the holder of the lease.

    Returns:
        The id of the annotation; its row says whether and why it is held back.

    Raises:
        GeometryMismatch: the mask lies on another grid; names both.
    """
    source.volume.geometry.require_same(mask.geometry, f"the label of series {source.series_uid}")
    require_known(services, source.series_uid)
    found = provenance(services, task, source, mask, author)
    sop_uid, seg_series_uid = (None, None) if mask.is_empty else (new_uid(), new_uid())
    origin = SegOrigin(
        kind="MANUAL",
        author=found.author,
        algorithm_name="",
        algorithm_version="",
        description=f"Label {task.name} by {found.author}"[:64],
    )
    payload = seg_file(mask, source, origin, sop_uid, seg_series_uid)
    human = _new_human(task, source.series_uid, mask, found, sop_uid, seg_series_uid)
    return services.ledger.annotations.add_human(human, accepts_at_once(services), payload, found.agreement)


def record_seg(
    services: Services, task: Task, source: SourceSeries, mask: Mask, summary: SegSummary, made_at: datetime | None
) -> int:
    """Take in a human's SEG that the archive already holds; the same SEG twice is one annotation.

    Args:
        services: the rooms.
        task: whose labels the mask holds.
        source: the labelled series.
        mask: what the SEG holds.
        summary: its header.
        made_at: when it was saved, aware; None when it does not say.
    """
    found = provenance(services, task, source, mask, summary.creator_name)
    human = _new_human(task, source.series_uid, mask, found, summary.sop_instance_uid, summary.series_uid)
    human = replace(human, made_at=made_at)
    return services.ledger.annotations.add_human(human, accepts_at_once(services), agreement=found.agreement)


def provenance(services: Services, task: Task, source: SourceSeries, mask: Mask, author: str) -> Provenance:
    """Author, parent draft and changed voxels of a new human label, and why it is held back if it is.

    The author is, in this order: who is named, who holds the lease, who had the series in hand when it was labelled
    last (he saved again), unknown. The parent is the newest draft, or that of the label that is corrected once more;
    one whose SEG cannot be had is the parent without figures, which is logged.
    """
    name = author or _annotator(services, task, source.series_uid) or UNKNOWN_AUTHOR
    draft = _parent_draft(services, task, source.series_uid)
    before = None if draft is None else _draft_mask(services, task, source, draft)
    agreement = {} if before is None else draft_dice(before, mask)
    earlier = partial(_corrections_of, services, task, draft)
    held = why_held(services.settings.review, task, source.volume, mask, draft, agreement, earlier)
    if held:
        logger.warning("the label of series %s by %s is held back: %s", source.series_uid, name, held)
    changed = None if before is None else before.changed_voxels(mask)
    return Provenance(name, None if draft is None else draft.id, changed, agreement, held)


def annotation_mask(services: Services, annotation_id: int, source: SourceSeries | None = None) -> Mask:
    """The mask of an annotation on the grid of its series; all background when nothing was found.

    Args:
        services: the rooms.
        annotation_id: of the ledger.
        source: its series, when the caller has it already.

    Raises:
        NotFound: no such annotation, or its SEG or series has left the archive.
        InvalidSegmentation: the annotation was rejected as unreadable.
    """
    row = services.ledger.annotations.get(annotation_id)
    if not row.series_uid or not row.task:
        raise InvalidSegmentation(f"annotation {annotation_id} belongs to no series and task: {row.reason}")
    return _read(services, services.task(row.task), source or load_series(services, row.series_uid), row)


def accept(services: Services, annotation_id: int, reviewer: str) -> None:
    """Let a submitted annotation become a training label; what was held back counts from now on.

    Raises:
        Conflict: it is not submitted (any more).
    """
    services.ledger.annotations.accept(annotation_id, reviewer)


def reject(services: Services, annotation_id: int, reviewer: str, reason: str) -> None:
    """Refuse an annotation; its series returns to the queue.

    Raises:
        Conflict: it is neither submitted nor accepted.
    """
    services.ledger.annotations.reject(annotation_id, reviewer, reason)


def held_labels(services: Services, task: Task | None = None) -> Sequence[AnnotationRow]:
    """What is held back until a reviewer decides, the oldest first."""
    return services.ledger.annotations.held(task.name if task else None)


def list_annotations(
    services: Services, task: Task | None = None, status: AnnotationStatus | None = None, limit: int = 100
) -> Sequence[AnnotationRow]:
    """Annotations, newest first."""
    return services.ledger.annotations.list(task=task.name if task else None, status=status, limit=limit)


def _annotator(services: Services, task: Task, series_uid: str) -> str | None:
    queue = services.ledger.queue
    holder = queue.holder(series_uid, task.name)
    return holder.annotator if holder else queue.last_labeller(series_uid, task.name)


def _corrections_of(services: Services, task: Task, draft: AnnotationRow | None) -> Sequence[CorrectionRow]:
    """The corrections in force of the drafts of the same model version."""
    version = None if draft is None else draft.model_version
    return [row for row in services.ledger.corrections.list(task.name) if row.model_version == version]


def _draft_mask(services: Services, task: Task, source: SourceSeries, draft: AnnotationRow) -> Mask | None:
    """What a draft shows, None when its SEG cannot be had."""
    try:
        return _read(services, task, source, draft)
    except LabelError as error:
        logger.warning("draft %d cannot be compared with its correction: %s", draft.id, error)
        return None


def _parent_draft(services: Services, task: Task, series_uid: str) -> AnnotationRow | None:
    annotations = services.ledger.annotations
    draft = annotations.latest_draft(series_uid, task.name)
    if draft is not None:
        return draft
    label = annotations.latest_label(series_uid, task.name)
    return annotations.get(label.parent_id) if label and label.parent_id else None


def _new_human(
    task: Task, series_uid: str, mask: Mask, found: Provenance, sop_uid: str | None, seg_series_uid: str | None
) -> NewHuman:
    return NewHuman(
        series_uid=series_uid,
        task=task.name,
        author=found.author,
        sop_instance_uid=sop_uid,
        seg_series_uid=seg_series_uid,
        parent_id=found.parent_id,
        changed_voxels=found.changed_voxels,
        voxels=mask.voxels(),
        nothing_found=mask.is_empty,
        held_reason=found.held_reason,
    )


def _read(services: Services, task: Task, source: SourceSeries, row: AnnotationRow) -> Mask:
    if row.nothing_found or row.seg_series_uid is None:
        geometry = source.volume.geometry
        return Mask(np.zeros(geometry.shape, np.uint8), geometry, task.schema)
    for dataset in services.archive.fetch(row.seg_series_uid):
        if dataset.SOPInstanceUID == row.sop_instance_uid:
            return read_seg(dataset, source, task.schema)
    raise NotFound(f"SEG {row.sop_instance_uid} of annotation {row.id} is not in the archive any more")
