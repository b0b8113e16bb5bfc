"""What the archive answers, as values."""

from dataclasses import dataclass
from typing import Any

from pydicom import Dataset

QIDO_FIELDS = (
    "InstitutionName", "Manufacturer", "Modality", "NumberOfSeriesRelatedInstances", "PatientID", "SeriesDate",
    "SeriesDescription", "StudyDate", "StudyInstanceUID",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArchiveInfo:
    """What the archive says of itself.

    Attributes:
        version: of Orthanc.
        database_id: changes when the archive gets a new database; "" from versions before 1.11, which do not say.
    """

    version: str
    database_id: str


@dataclass(frozen=True, slots=True)
class Change:
    """One event of the archive.

    Attributes:
        seq: its number, growing; gaps are normal.
        kind: for example NewInstance or StableSeries.
        series_uid: SeriesInstanceUID of a change of a series; None for other levels and for a series
            that has gone since.
        orthanc_id: Orthanc's own name of the resource.
    """

    seq: int
    kind: str
    series_uid: str | None
    orthanc_id: str


@dataclass(frozen=True, slots=True)
class ChangePage:
    """A run of events.

    Attributes:
        changes: in order.
        last: where to go on from; lower than the asked number when the archive has a new database.
        done: whether nothing follows.
    """

    changes: tuple[Change, ...]
    last: int
    done: bool


@dataclass(frozen=True, slots=True)
class SeriesHeader:
    """What the archive's index knows of one series; text that it does not have is ""."""

    study_uid: str
    series_uid: str
    modality: str
    description: str
    patient_id: str
    instances: int
    institution: str
    manufacturer: str
    date: str

    @classmethod
    def from_qido(cls, item: dict[str, Any]) -> "SeriesHeader":
        """The header in one answer of QIDO-RS (DICOM JSON)."""
        found = Dataset.from_json(item)
        return cls(
            study_uid=text_of(found, "StudyInstanceUID"),
            series_uid=text_of(found, "SeriesInstanceUID"),
            modality=text_of(found, "Modality"),
            description=text_of(found, "SeriesDescription"),
            patient_id=text_of(found, "PatientID"),
            instances=int(found.get("NumberOfSeriesRelatedInstances") or 0),
            institution=text_of(found, "InstitutionName"),
            manufacturer=text_of(found, "Manufacturer"),
            date=text_of(found, "SeriesDate") or text_of(found, "StudyDate"),
        )

    @classmethod
    def from_orthanc(cls, series: dict[str, Any], study: dict[str, Any]) -> "SeriesHeader":
        """The header in Orthanc's own description of a series and of its study."""
        own, above, patient = series["MainDicomTags"], study["MainDicomTags"], study["PatientMainDicomTags"]
        return cls(
            study_uid=above["StudyInstanceUID"],
            series_uid=own["SeriesInstanceUID"],
            modality=own.get("Modality", ""),
            description=own.get("SeriesDescription", ""),
            patient_id=patient.get("PatientID", ""),
            instances=len(series["Instances"]),
            institution=above.get("InstitutionName", ""),
            manufacturer=own.get("Manufacturer", ""),
            date=own.get("SeriesDate", "") or above.get("StudyDate", ""),
        )


def text_of(dataset: Dataset, keyword: str) -> str:
    """Value of an attribute as text, "" when it is missing or empty."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()
