"""What arrives in the archive becomes rows and jobs in the ledger: every series and every SEG once.

The archive's change feed is followed from a stored cursor. A change becomes a row and a job before the cursor moves, so
a crash at any point repeats work that is idempotent and loses none. When the cursor does not fit the archive (first
start, new database, events removed), and now and then, all series of the archive are compared with the ledger. What
cannot be taken in is noted, and the others go on.
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from lib.core.errors import ArchiveUnavailable, LabelError, LedgerUnavailable
from lib.dicom.orthanc import SeriesHeader
from lib.ledger.rows import AnnotationRow, SeriesRow
from lib.workflows.arrivals import (
    NO_TASK,
    UNFIT,
    IngestCounts,
    enqueue_check,
    patient_of,
    read_again,
    take_in,
    take_in_header,
    taken_by_a_task,
)
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

CURSOR = "changes"
TASKS = "tasks"


def ingest_once(services: Services) -> IngestCounts:
    """Take in what changed since the last look.

    Raises:
        ArchiveUnavailable: the archive is away; the next look goes on from the same place.
    """
    database = services.archive.check().database_id
    cursor = services.ledger.cursor(CURSOR)
    page = services.archive.changes(cursor.value if cursor else 0)
    if cursor is None or cursor.source != database or page.last < cursor.value:
        return _start_over(services, database)
    counts = IngestCounts()
    while True:
        for uid in dict.fromkeys(change.series_uid for change in page.changes if change.kind == "StableSeries"):
            if uid is not None:
                counts += _safely(services, uid, partial(take_in, services, uid))
        if page.changes:
            services.ledger.set_cursor(CURSOR, page.last, database)
        if page.done:
            return counts
        page = services.archive.changes(page.last)


def reconcile(services: Services) -> IngestCounts:
    """Compare all series of the archive with the ledger: take in what is missing, mark what has gone.

    The ledger is read first: what is registered while the archive answers is in neither list, and left alone.

    Raises:
        ArchiveUnavailable: the archive is away.
    """
    rows = services.ledger.series.list()
    stored = services.ledger.annotations.stored()
    headers = _one_each(services, services.archive.series(), rows)
    counts = IngestCounts()
    for header in headers:
        counts += _safely(services, header.series_uid, partial(take_in_header, services, header))
    there = frozenset(header.series_uid for header in headers)
    for row in rows:
        counts += _safely(services, row.series_uid, partial(_follow_series, services, row, there))
    for annotation in stored:
        if annotation.seg_series_uid not in there:
            counts += _safely(services, annotation.series_uid, partial(_lose, services, annotation))
    return counts + _read_again_for_new_tasks(services, there)


def _safely(services: Services, series_uid: str, step: Callable[[], IngestCounts]) -> IngestCounts:
    """Do one step for one series; what is wrong with it is noted and stops no other series."""
    try:
        return step()
    except (ArchiveUnavailable, LedgerUnavailable):
        raise
    except LabelError as error:
        logger.error("series %s cannot be taken in: %s", series_uid, error)
        _note_once(services, series_uid, str(error))
        return IngestCounts()


def _note_once(services: Services, series_uid: str, error: str) -> None:
    """Into the audit trail, unless that is the last that it says of the series."""
    last = services.ledger.audit.list(limit=1, subject=series_uid)
    if not last or last[0].details.get("error") != error:
        services.ledger.audit.add("system", "ingest.failed", series_uid, {"error": error})


def _one_each(services: Services, headers: Iterable[SeriesHeader], rows: Sequence[SeriesRow]) -> list[SeriesHeader]:
    """One header for each series UID: an archive keeps a series twice when it came for two patients.

    The patient whom the ledger knows stays as long as the archive has him, so that nothing goes to and fro.
    """
    known = {row.series_uid: row.patient for row in rows}
    found: dict[str, SeriesHeader] = {}
    for header in headers:
        uid = header.series_uid
        if uid not in found or patient_of(services, header.patient_id, header.study_uid) == known.get(uid):
            found[uid] = header
    return list(found.values())


def _follow_series(services: Services, row: SeriesRow, there: Collection[str]) -> IngestCounts:
    """What has become of a series that the ledger knew before the archive was asked."""
    if row.status != "gone" and row.series_uid not in there:
        services.ledger.series.set_gone(row.series_uid)
        return IngestCounts(gone=1)
    if row.status == "new" or _is_taken_by_now(services, row):  # jobs fail while the archive is away
        enqueue_check(services, row.series_uid)
    return IngestCounts()


def _lose(services: Services, annotation: AnnotationRow) -> IngestCounts:
    """The SEG of an annotation that counts has left the archive."""
    if not services.ledger.annotations.lose(annotation.id):
        return IngestCounts()
    what = f"{annotation.status} annotation {annotation.id} of series {annotation.series_uid}"
    logger.warning("SEG %s has left the archive: %s does not count any more", annotation.sop_instance_uid, what)
    return IngestCounts(gone=1)


def _read_again_for_new_tasks(services: Services, there: Collection[str]) -> IngestCounts:
    """SEGs that no task knew are read again when other tasks are served, or other labels, than the last time."""
    served = [
        (task.name, task.modalities, task.series_description, task.schema.names) for task in services.tasks.values()
    ]
    digest = hashlib.sha256(repr(served).encode()).hexdigest()
    known = services.ledger.cursor(TASKS)
    if known is not None and known.source == digest:
        return IngestCounts()
    counts = IngestCounts()
    for rejected in services.ledger.annotations.unusable(because=UNFIT):
        if rejected.seg_series_uid in there:
            counts += read_again(services, rejected)
    services.ledger.set_cursor(TASKS, 0, digest)
    return counts


def _is_taken_by_now(services: Services, row: SeriesRow) -> bool:
    """Whether a series was refused for want of a task that is served now."""
    return row.status == "refused" and row.reason.startswith(NO_TASK) and taken_by_a_task(services, row)


def _start_over(services: Services, database: str) -> IngestCounts:
    """Reconcile, then follow the feed from its present end (read first: nothing falls in between)."""
    logger.info("the archive's change feed is new to the ledger: all series are compared once")
    last = _end_of_feed(services)
    counts = reconcile(services)
    services.ledger.set_cursor(CURSOR, last, database)
    return counts


def _end_of_feed(services: Services) -> int:
    page = services.archive.changes(0)
    while not page.done:
        page = services.archive.changes(page.last, limit=1000)
    return page.last
