"""The two jobs that arrivals bring: check an image series, read a SEG.

A series that makes no volume is refused with the reason and never offered. A SEG is a human label, a foreign model's
draft, or rejected with the reason; nothing that arrives is dropped.
"""

import logging
from datetime import UTC, datetime

from lib.core.errors import (
    ArchiveUnavailable,
    InvalidInput,
    InvalidSegmentation,
    LabelError,
    LedgerUnavailable,
    NoChampion,
    NotFound,
)
from lib.core.values import Mask
from lib.dicom.answers import text_of
from lib.dicom.files import Dataset, malformed_as
from lib.dicom.seg import SegSummary, read_seg, seg_summary
from lib.dicom.series import SourceSeries, assemble
from lib.ledger.rows import NewDraft, SeriesRow
from lib.taskfile import Task
from lib.workflows.arrivals import (
    NO_TASK,
    UNFIT,
    enqueue_check,
    read_again,
    require_known,
    require_uid,
    take_in,
    taken_by_a_task,
)
from lib.workflows.jobs import DRAFT, draft_key
from lib.workflows.models import require_champion
from lib.workflows.presegment import load_series
from lib.workflows.review import record_seg
from lib.workflows.services import Services

logger = logging.getLogger(__name__)


def check_series(services: Services, series_uid: str) -> str:
    """Assemble a series: ready, or refused with the reason; in words what came of it.

    A verdict holds only for the instances that were looked at: when more have come meanwhile, another check is queued.

    Raises:
        ArchiveUnavailable: the archive is away.
    """
    series = services.ledger.series
    row = series.get(series_uid)
    try:
        outcome, is_in_force = _judge(services, row)
    except NotFound:
        series.set_gone(series_uid)
        return "gone"
    if not is_in_force:
        enqueue_check(services, series_uid)
        return "changed meanwhile"
    if outcome == "ready":
        for rejected in services.ledger.annotations.unusable(series_uid):  # it was not there yet, or not whole
            read_again(services, rejected)
        _draft_if_automatic(services, series_uid)
    return outcome


def read_seg_series(services: Services, seg_series_uid: str) -> int:
    """Read every SEG of a series that the ledger does not know yet; how many.

    Raises:
        ArchiveUnavailable: the archive is away.
    """
    read = 0
    for dataset in sorted(services.archive.fetch(seg_series_uid), key=_order):
        sop_uid = text_of(dataset, "SOPInstanceUID")
        if services.ledger.annotations.knows(sop_uid):
            continue
        read += 1
        try:
            _read_seg(services, dataset, seg_series_uid)
        except (ArchiveUnavailable, LedgerUnavailable):
            raise
        except LabelError as error:  # the others of the series are read all the same
            logger.error("SEG %s cannot be recorded: %s", sop_uid, error)
    return read


def task_of(services: Services, summary: SegSummary, series: SeriesRow) -> Task:
    """The served task for that series that knows the most segment names, the first of several.

    Names that it does not know are left to the reading: they count only when they have voxels.

    Raises:
        InvalidSegmentation: there is none; says why.
    """
    refusals = {task.name: task.why_not(series.modality, series.description) for task in services.tasks.values()}
    tasks = [task for task in services.tasks.values() if refusals[task.name] is None]
    if not tasks:
        raise InvalidSegmentation(f"{NO_TASK}: " + "; ".join(filter(None, refusals.values())))
    task = max(tasks, key=lambda task: len(summary.segment_names) - len(_unknown_names(summary, task)))
    if len(_unknown_names(summary, task)) < len(summary.segment_names):
        return task
    known = "; ".join(f"{task.name}: {', '.join(task.schema.names)}" for task in tasks)
    named = ", ".join(summary.segment_names) or "none"
    raise InvalidSegmentation(f"{NO_TASK}: segments must be named like the labels of one task ({known}), got {named}")


def _judge(services: Services, row: SeriesRow) -> tuple[str, bool]:
    """The verdict on a series, and whether it holds.

    Raises:
        NotFound: the series has left the archive.
    """
    series = services.ledger.series
    if not taken_by_a_task(services, row):
        reasons = [task.why_not(row.modality, row.description) for task in services.tasks.values()]
        reason = f"{NO_TASK}: " + "; ".join(filter(None, reasons))
        return "refused", series.refuse(row.series_uid, reason, row.instances)
    try:
        instances = services.archive.fetch(row.series_uid)
        if len(instances) != row.instances:
            take_in(services, row.series_uid)  # the change feed is yet to say so
        source = assemble(instances)
    except InvalidInput as error:
        return "refused", series.refuse(row.series_uid, str(error), row.instances)
    space = source.frame_of_reference_uid
    return "ready", series.set_ready(row.series_uid, source.findings, space, _grid(source), row.instances)


def _read_seg(services: Services, dataset: Dataset, seg_series_uid: str) -> None:
    summary: SegSummary | None = None
    task: Task | None = None
    try:
        summary = _summary(dataset)
        series = _series_of(services, summary)
        task = task_of(services, summary, series)
        source = load_series(services, series.series_uid)
        mask = read_seg(dataset, source, task.schema)
    except (InvalidInput, NotFound) as error:
        unknown = _unknown_names(summary, task) if summary and task else []
        reason = f"{error} ({UNFIT} knows {', '.join(unknown)})" if unknown else str(error)
        _reject(services, text_of(dataset, "SOPInstanceUID"), seg_series_uid, summary, task, reason)
        return
    if summary.is_automatic:
        _record_foreign_draft(services, task, source, mask, summary, saved_at(dataset))
    else:
        record_seg(services, task, source, mask, summary, saved_at(dataset))


def _summary(dataset: Dataset) -> SegSummary:
    """The header of a SEG.

    Raises:
        InvalidSegmentation: it is no SEG, is malformed, or refers to no series.
        InvalidInput: a UID that is none.
    """
    with malformed_as(InvalidSegmentation, "the SEG"):
        summary = seg_summary(dataset)
    require_uid("the SEG", summary.sop_instance_uid)
    require_uid("the SEG's series", summary.series_uid)
    return summary


def _series_of(services: Services, summary: SegSummary) -> SeriesRow:
    """The series that a SEG refers to; its row is made when the SEG arrived first."""
    uid = summary.referenced_series_uid
    if not uid:
        raise InvalidSegmentation("the SEG must refer to the series it segments (ReferencedSeriesSequence), got none")
    require_uid("the segmented series", uid)
    try:
        require_known(services, uid)
        return services.ledger.series.get(uid)
    except NotFound as error:
        raise InvalidSegmentation(f"the SEG refers to series {uid}, which the archive does not hold") from error


def _reject(
    services: Services, sop_uid: str, seg_series_uid: str, summary: SegSummary | None, task: Task | None, reason: str
) -> None:
    """Record a SEG that cannot be used; without a summary nothing is known of it but its UIDs."""
    services.ledger.annotations.reject_seg(
        sop_uid,
        summary.referenced_series_uid if summary else None,
        task.name if task else None,
        reason,
        author=summary.creator_name if summary and summary.creator_name else "unknown",
        seg_series_uid=seg_series_uid,
    )
    logger.warning("SEG %s is recorded as rejected: %s", sop_uid, reason)


def _record_foreign_draft(
    services: Services, task: Task, source: SourceSeries, mask: Mask, summary: SegSummary, made_at: datetime | None
) -> None:
    draft = NewDraft(
        series_uid=source.series_uid,
        task=task.name,
        author=summary.creator_name or summary.manufacturer or "unknown model",
        origin="foreign_model",
        sop_instance_uid=summary.sop_instance_uid,
        seg_series_uid=summary.series_uid,
        voxels=mask.voxels(),
        nothing_found=mask.is_empty,
        made_at=made_at,
    )
    services.ledger.annotations.add_draft(draft, unless_labelled=False)


def _unknown_names(summary: SegSummary, task: Task) -> list[str]:
    """Names of segments that are no label of the task."""
    return [name for name in summary.segment_names if task.schema.find(name) is None]


def _draft_if_automatic(services: Services, series_uid: str) -> None:
    """A new series is drafted at once by each task that takes it and has a model."""
    if not services.settings.presegment.automatic:
        return
    row = services.ledger.series.get(series_uid)
    for task in services.tasks.values():
        if task.why_not(row.modality, row.description) is not None:
            continue
        try:
            version = require_champion(services, task).version
        except NoChampion:
            logger.debug("series %s waits for the first model of task %s", series_uid, task.name)
            continue
        if series_uid in services.ledger.annotations.undrafted(task.name, version):
            key = draft_key(task.name, series_uid)
            services.ledger.jobs.add(DRAFT, task.name, {"series_uid": series_uid}, key)


def _grid(source: SourceSeries) -> dict[str, object]:
    geometry = source.volume.geometry
    return {"shape": list(geometry.shape), "affine": geometry.affine.tolist()}


def saved_at(dataset: Dataset) -> datetime | None:
    """Content date and time of a SEG, aware; None when it has none that can be read.

    Without an offset from UTC the time is local time: viewers are taken to be in the time zone of this machine. A time
    without fractions stands for its whole second, so what is saved in the second of another one counts as later.
    """
    text = f"{dataset.get('ContentDate', '')}{dataset.get('ContentTime', '')}"
    offset = str(dataset.get("TimezoneOffsetFromUTC") or "").strip()
    try:
        saved = datetime.strptime(text[:14] + offset, "%Y%m%d%H%M%S%z" if offset else "%Y%m%d%H%M%S")
    except ValueError:
        return None
    fraction = text[14:].strip().removeprefix(".")[:6]
    microsecond = int(fraction.ljust(6, "0")) if fraction.isdigit() else 999_999
    return saved.replace(microsecond=microsecond).astimezone(UTC)


def _order(dataset: Dataset) -> tuple[bool, str]:
    """What says no time first, then by time: the later one supersedes."""
    saved = saved_at(dataset)
    return saved is not None, saved.isoformat() if saved else ""
