"""One arrival: a series of the archive becomes a row and a job in the ledger, however often it is met."""

import logging
import re
from dataclasses import dataclass

from lib.core.errors import InvalidInput, NotFound
from lib.dicom.orthanc import SeriesHeader
from lib.ledger.pseudonym import pseudonym, split_of
from lib.ledger.rows import AnnotationRow, NewSeries, SeriesRow
from lib.workflows.jobs import CHECK, READ_SEG, check_key, read_seg_key
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

UID = re.compile(r"(?=.*[0-9])[0-9.]{1,64}")
SEGMENTATION = "SEG"
UNFIT = "no served task"
"""Words in the reason of each series and SEG that another task might take."""
NO_TASK = f"{UNFIT} takes it"
NOT_IMAGES = frozenset({"SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC", "OT", "FID", "RWV", "SEG"})


@dataclass(frozen=True, slots=True)
class IngestCounts:
    """What one look at the archive brought.

    Attributes:
        series: image series with something to check.
        segs: SEG series to read.
        gone: series, and SEGs that counted, that have left the archive.
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


def take_in(services: Services, series_uid: str) -> IngestCounts:
    """Take in one series of the archive, whatever it is; one that has gone meanwhile counts as nothing."""
    try:
        header = services.archive.header(series_uid)
    except NotFound:
        logger.info("series %s left the archive before it was read", series_uid)
        return IngestCounts()
    return take_in_header(services, header)


def register_series(services: Services, header: SeriesHeader) -> bool:
    """Write the row of an image series; whether there is something to check.

    Raises:
        InvalidInput: a UID that is none.
    """
    require_uid("the series", header.series_uid)
    require_uid("its study", header.study_uid)
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


def require_uid(what: str, uid: str) -> None:
    """Raise InvalidInput unless it is made like a UID: it goes into addresses and names of files."""
    if not UID.fullmatch(uid):
        raise InvalidInput(f"the UID of {what} must be 1 to 64 digits and dots, got {uid!r}")


def patient_of(services: Services, patient_id: str, study_uid: str) -> str:
    """The pseudonym of a patient; a study without a patient id is a patient of its own."""
    try:
        return pseudonym(patient_id, services.key)
    except InvalidInput:
        return pseudonym(study_uid, services.key)


def taken_by_a_task(services: Services, row: SeriesRow) -> bool:
    """Whether a served task is for series of that modality and description."""
    return any(task.why_not(row.modality, row.description) is None for task in services.tasks.values())


def enqueue_check(services: Services, series_uid: str) -> None:
    """One open check for each number of instances that the series has had: one that runs may have seen fewer."""
    instances = services.ledger.series.get(series_uid).instances
    key = f"{check_key(series_uid)}:{instances}"
    services.ledger.jobs.add(CHECK, "", {"series_uid": series_uid}, key, services.settings.worker.attempts)


def read_again(services: Services, rejected: AnnotationRow) -> IngestCounts:
    """Forget that a SEG could not be used, and read it once more."""
    if not rejected.seg_series_uid:
        return IngestCounts()
    services.ledger.annotations.forget_rejection(rejected.id)
    _enqueue_reading(services, rejected.seg_series_uid)
    return IngestCounts(segs=1)


def accepts_at_once(services: Services) -> bool:
    """Whether a label counts without a reviewer."""
    return services.settings.review.mode == "auto"


def take_in_header(services: Services, header: SeriesHeader) -> IngestCounts:
    """Take in one series, given what the archive's index says of it.

    Raises:
        InvalidInput: a UID that is none.
    """
    if header.modality == SEGMENTATION:
        return _take_in_segs(services, header)
    if header.modality in NOT_IMAGES or not register_series(services, header):
        return IngestCounts()
    enqueue_check(services, header.series_uid)
    return IngestCounts(series=1)


def _take_in_segs(services: Services, header: SeriesHeader) -> IngestCounts:
    require_uid("the SEG's series", header.series_uid)
    annotations = services.ledger.annotations
    if annotations.restore(header.series_uid, accepts_at_once(services)):
        logger.info("SEG series %s is in the archive again: its labels count", header.series_uid)
    if annotations.known_in_series(header.series_uid) >= header.instances > 0:
        return IngestCounts()
    _enqueue_reading(services, header.series_uid)
    return IngestCounts(segs=1)


def _enqueue_reading(services: Services, seg_series_uid: str) -> None:
    services.ledger.jobs.add(READ_SEG, "", {"series_uid": seg_series_uid}, read_seg_key(seg_series_uid))
