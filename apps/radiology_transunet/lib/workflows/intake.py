"""The two jobs that arrivals bring: check an image series, read a SEG.

A series that makes no volume is refused with the reason and never offered. A SEG is a human label, a foreign model's
draft, or rejected with the reason; nothing that arrives is dropped.
"""

import logging
from datetime import UTC, datetime

from lib.core.errors import InvalidInput, InvalidSegmentation, NoChampion, NotFound
from lib.dicom.files import Dataset
from lib.dicom.seg import SegSummary, read_seg, seg_summary
from lib.dicom.series import SourceSeries
from lib.ledger.rows import NewDraft
from lib.taskfile import Task
from lib.workflows.ingest import NO_TASK, require_known, taken_by_a_task
from lib.workflows.jobs import DRAFT, READ_SEG, draft_key, read_seg_key
from lib.workflows.models import require_champion
from lib.workflows.presegment import load_series
from lib.workflows.review import record_seg
from lib.workflows.services import Services

logger = logging.getLogger(__name__)


def check_series(services: Services, series_uid: str) -> str:
    """Assemble a series: ready, or refused with the reason; in words what came of it.

    Raises:
        ArchiveUnavailable: the archive is away.
    """
    series = services.ledger.series
    row = series.get(series_uid)
    if not taken_by_a_task(services, row):
        reasons = [task.why_not(row.modality, row.description) for task in services.tasks.values()]
        series.refuse(series_uid, f"{NO_TASK}: " + "; ".join(filter(None, reasons)))
        return "refused"
    try:
        source = load_series(services, series_uid)
    except NotFound:
        series.set_gone(series_uid)
        return "gone"
    except InvalidInput as error:
        series.refuse(series_uid, str(error))
        return "refused"
    series.set_ready(series_uid, source.findings, source.frame_of_reference_uid, _grid(source))
    _read_waiting_segs(services, series_uid)
    _draft_if_automatic(services, series_uid)
    return "ready"


def read_seg_series(services: Services, seg_series_uid: str) -> int:
    """Read every SEG of a series that the ledger does not know yet; how many.

    Raises:
        ArchiveUnavailable: the archive is away.
    """
    read = 0
    for dataset in sorted(services.archive.fetch(seg_series_uid), key=_order):
        if not services.ledger.annotations.knows(str(dataset.SOPInstanceUID)):
            _read_seg(services, dataset)
            read += 1
    return read


def task_of(services: Services, summary: SegSummary) -> Task:
    """The served task that has a label for every segment name.

    Raises:
        InvalidSegmentation: there is none; names the segments and the labels that are known.
    """
    for task in services.tasks.values():
        if summary.segment_names and all(task.schema.find(name) for name in summary.segment_names):
            return task
    known = "; ".join(f"{task.name}: {', '.join(task.schema.names)}" for task in services.tasks.values())
    named = ", ".join(summary.segment_names) or "none"
    raise InvalidSegmentation(f"segments must be named like the labels of one task ({known}), got {named}")


def _read_seg(services: Services, dataset: Dataset) -> None:
    summary = seg_summary(dataset)
    task: Task | None = None
    try:
        task = task_of(services, summary)
        source = _source(services, summary)
        mask = read_seg(dataset, source, task.schema)
    except (InvalidInput, NotFound) as error:
        services.ledger.annotations.reject_seg(
            summary.sop_instance_uid,
            summary.referenced_series_uid,
            task.name if task else None,
            str(error),
            author=summary.creator_name or "unknown",
            seg_series_uid=summary.series_uid,
        )
        logger.warning("SEG %s is recorded as rejected: %s", summary.sop_instance_uid, error)
        return
    made_at = saved_at(dataset)
    if not summary.is_automatic:
        record_seg(services, task, source, mask, summary, made_at)
        return
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


def _source(services: Services, summary: SegSummary) -> SourceSeries:
    """The series that a SEG refers to; its row is made when the SEG arrived first."""
    uid = summary.referenced_series_uid
    if not uid:
        raise InvalidSegmentation("the SEG must refer to the series it segments (ReferencedSeriesSequence), got none")
    try:
        require_known(services, uid)
        return load_series(services, uid)
    except NotFound as error:
        raise InvalidSegmentation(f"the SEG refers to series {uid}, which the archive does not hold") from error


def _read_waiting_segs(services: Services, series_uid: str) -> None:
    """SEGs that were rejected because their series was not there yet get another reading."""
    annotations = services.ledger.annotations
    for row in annotations.rejected_for_unknown_series(series_uid):
        if row.seg_series_uid:
            annotations.forget_rejection(row.id)
            key = read_seg_key(row.seg_series_uid)
            services.ledger.jobs.add(READ_SEG, "", {"series_uid": row.seg_series_uid}, key)


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
