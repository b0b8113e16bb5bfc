"""What the header of a DICOM SEG object says; pixel data is not needed."""

from dataclasses import dataclass

from pydicom import Dataset
from pydicom.uid import UID, SegmentationStorage

from lib.core.errors import InvalidSegmentation
from lib.core.labels import BACKGROUND
from lib.dicom.answers import text_of

LABELMAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Label Map Segmentation Storage, which pydicom 3.0 has no name for."""


@dataclass(frozen=True, slots=True)
class SegSummary:
    """What the header of a SEG object says; text that it does not have is "".

    Attributes:
        sop_instance_uid: of the object.
        series_uid: its own series.
        study_uid: its study.
        referenced_series_uid: the series it lies on, None when it names none.
        referenced_instance_uid: the first image it names, None when it names none.
        frame_of_reference_uid: the space it lies in.
        segment_names: SegmentLabel of each segment.
        algorithm_types: SegmentAlgorithmType of each segment.
        creator_name: ContentCreatorName.
        description: SeriesDescription.
        manufacturer: Manufacturer.
    """

    sop_instance_uid: str
    series_uid: str
    study_uid: str
    referenced_series_uid: str | None
    referenced_instance_uid: str | None
    frame_of_reference_uid: str
    segment_names: tuple[str, ...]
    algorithm_types: tuple[str, ...]
    creator_name: str
    description: str
    manufacturer: str

    @property
    def is_automatic(self) -> bool:
        """Whether every segment was made by software alone: a draft, never a label."""
        return bool(self.algorithm_types) and all(kind == "AUTOMATIC" for kind in self.algorithm_types)


def seg_summary(dataset: Dataset) -> SegSummary:
    """The header of a SEG object; pixel data is not needed.

    Raises:
        InvalidSegmentation: the object is no SEG.
    """
    require_seg(dataset)
    segments = [item for item in dataset.get("SegmentSequence") or () if item.get("SegmentNumber") != BACKGROUND]
    series = dataset.get("ReferencedSeriesSequence") or ()
    return SegSummary(
        sop_instance_uid=text_of(dataset, "SOPInstanceUID"),
        series_uid=text_of(dataset, "SeriesInstanceUID"),
        study_uid=text_of(dataset, "StudyInstanceUID"),
        referenced_series_uid=text_of(series[0], "SeriesInstanceUID") or None if series else None,
        referenced_instance_uid=_first_image(dataset),
        frame_of_reference_uid=text_of(dataset, "FrameOfReferenceUID"),
        segment_names=tuple(text_of(item, "SegmentLabel") for item in segments),
        algorithm_types=tuple(text_of(item, "SegmentAlgorithmType") for item in segments),
        creator_name=text_of(dataset, "ContentCreatorName"),
        description=text_of(dataset, "SeriesDescription"),
        manufacturer=text_of(dataset, "Manufacturer"),
    )


def require_seg(dataset: Dataset) -> None:
    """Raise InvalidSegmentation unless the object is a SEG."""
    sop_class = dataset.get("SOPClassUID")
    if sop_class not in (SegmentationStorage, LABELMAP_STORAGE):
        raise InvalidSegmentation(f"a DICOM SEG object is needed, got {getattr(sop_class, 'name', sop_class)}")


def functional_group(dataset: Dataset, index: int, keyword: str) -> Dataset | None:
    """First item of a functional group of a frame, its own before the shared one."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    for groups in (*per_frame[index : index + 1], *shared[:1]):
        items = groups.get(keyword)
        if items:
            return items[0]
    return None


def source_image(dataset: Dataset, index: int) -> str:
    """SOPInstanceUID of the image that frame `index` was derived from, "" when it names none."""
    derivation = functional_group(dataset, index, "DerivationImageSequence")
    images = derivation.get("SourceImageSequence") if derivation is not None else None
    return text_of(images[0], "ReferencedSOPInstanceUID") if images else ""


def _first_image(dataset: Dataset) -> str | None:
    for series in dataset.get("ReferencedSeriesSequence") or ():
        for item in series.get("ReferencedInstanceSequence") or ():
            return text_of(item, "ReferencedSOPInstanceUID") or None
    return source_image(dataset, 0) or None


def is_labelmap(dataset: Dataset) -> bool:
    """Whether pixel values are segment numbers."""
    labelmap = text_of(dataset, "SegmentationType") == "LABELMAP"
    return labelmap or dataset.SOPClassUID == LABELMAP_STORAGE
