"""What arrives in the archive becomes rows and jobs in the ledger: every series and every SEG once.

The archive's change feed is followed from a stored cursor. A change becomes a row and a job before the cursor moves, so
a crash at any point repeats work that is idempotent and loses none. When the cursor does not fit the archive (first
start, new database, events removed), and now and then, all series of the archive are compared with the ledger.
"""

import logging
from dataclasses import dataclass

from lib.core.errors import InvalidInput, NotFound
from lib.dicom.orthanc import SeriesHeader
from lib.ledger.pseudonym import pseudonym, split_of
from lib.ledger.rows import NewSeries, SeriesRow
from lib.workflows.jobs import CHECK, READ_SEG, check_key, read_seg_key
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

CURSOR = "changes"
SEGMENTATION = "SEG"
NO_TASK = "no served task takes it"
NOT_IMAGES = frozenset({"SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC", "OT", "FID", "RWV", "SEG"})


@dataclass(frozen=True, slots=True)
class IngestCounts:
    """What one look at the archive brought.

    Attributes:
        series: image series with something to check.
        segs: SEG series to read.
        gone: series that have left the archive.
    """

    series: int = 0
    segs: int = 0
    gone: int = 0

    @property
    def any(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.series or self.segs or self.gone)

    def __str__(self) -> str:
        return f"{self.series} series to check, {self.segs} SEG series to read, {self.gone} gone"

    def __add__(self, other: "IngestCounts") -> "IngestCounts":
        return IngestCounts(self.series + other.series, self.segs + other.segs, self.gone + other.gone)


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
                counts += take_in(services, uid)
        if page.changes:
            services.ledger.set_cursor(CURSOR, page.last, database)
        if page.done:
            return counts
        page = services.archive.changes(page.last)


def reconcile(services: Services) -> IngestCounts:
    """Compare all series of the archive with the ledger: take in what is missing, mark what has gone.

    Raises:
        ArchiveUnavailable: the archive is away.
    """
    headers = services.archive.series()
    counts = IngestCounts()
    for header in headers:
        counts += _take_in_header(services, header)
    there = {header.series_uid for header in headers}
    for row in services.ledger.series.list():
        if row.status != "gone" and row.series_uid not in there:
            services.ledger.series.set_gone(row.series_uid)
            counts += IngestCounts(gone=1)
        elif row.status == "new" or _is_taken_by_now(services, row):  # jobs fail while the archive is away
            _enqueue_check(services, row.series_uid)
    return counts


def take_in(services: Services, series_uid: str) -> IngestCounts:
    """Take in one series of the archive, whatever it is; one that has gone meanwhile counts as nothing."""
    try:
        header = services.archive.header(series_uid)
    except NotFound:
        logger.info("series %s left the archive before it was read", series_uid)
        return IngestCounts()
    return _take_in_header(services, header)


def register_series(services: Services, header: SeriesHeader) -> bool:
    """Write the row of an image series; whether there is something to check."""
    patient = patient_of(services, header.patient_id, header.study_uid)
    known_split = services.ledger.series.patient_split(patient)
    return services.ledger.series.add(
        NewSeries(
            series_uid=header.series_uid,
            study_uid=header.study_uid,
            patient=patient,
            split=known_split or split_of(patient, services.key, services.settings.ledger.splits),
            modality=header.modality,
            description=header.description,
            instances=header.instances,
            institution=header.institution,
            manufacturer=header.manufacturer,
            date=header.date,
        )
    )


def require_known(services: Services, series_uid: str) -> None:
    """Make sure that a series has its row, also when somebody is faster than the change feed.

    Raises:
        NotFound: the archive does not hold it either.
    """
    try:
        services.ledger.series.get(series_uid)
    except NotFound:
        take_in(services, services.archive.header(series_uid).series_uid)


def patient_of(services: Services, patient_id: str, study_uid: str) -> str:
    """The pseudonym of a patient; a study without a patient id is a patient of its own."""
    try:
        return pseudonym(patient_id, services.key)
    except InvalidInput:
        return pseudonym(study_uid, services.key)


def taken_by_a_task(services: Services, row: SeriesRow) -> bool:
    """Whether a served task is for series of that modality and description."""
    return any(task.why_not(row.modality, row.description) is None for task in services.tasks.values())


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


def _take_in_header(services: Services, header: SeriesHeader) -> IngestCounts:
    if header.modality == SEGMENTATION:
        key = read_seg_key(header.series_uid)
        if services.ledger.annotations.known_in_series(header.series_uid) >= header.instances > 0:
            return IngestCounts()
        services.ledger.jobs.add(READ_SEG, "", {"series_uid": header.series_uid}, key)
        return IngestCounts(segs=1)
    if header.modality in NOT_IMAGES:
        return IngestCounts()
    if not register_series(services, header):
        return IngestCounts()
    _enqueue_check(services, header.series_uid)
    return IngestCounts(series=1)


def _enqueue_check(services: Services, series_uid: str) -> None:
    attempts = services.settings.worker.attempts
    services.ledger.jobs.add(CHECK, "", {"series_uid": series_uid}, check_key(series_uid), attempts)
