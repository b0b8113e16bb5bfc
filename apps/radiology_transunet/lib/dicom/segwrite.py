"""A Mask -> a DICOM SEG object over its source series."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import format_number_as_ds

from lib.core.errors import InvalidInput, InvalidMask
from lib.core.labels import Code, Label
from lib.core.values import Mask
from lib.dicom.series import SourceSeries, match_slice_order
from lib.dicom.writer import SOFTWARE, new_uid

SERIES_NUMBER = 300
MAX_TEXT = 64
"""Characters that LO and one group of PN hold."""

MIN_PIXELS = 8
"""highdicom 0.28.2 packs smaller frames wrongly (it pads each to a byte)."""

FORBIDDEN = ("\\", "=", "\r", "\n")
UTF8 = "ISO_IR 192"
OPTIONAL_EMPTY = (
    "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip
"""Attributes that every image must have but may leave empty; files in the wild lack some."""

NAMES = ("PatientName", "ReferringPhysicianName")
"""Set after highdicom has run: it warns of each name without a caret, and many archives have such names."""


@dataclass(frozen=True, slots=True)
class SegOrigin:
    """Who or what made a segmentation.

    Attributes:
        kind: how its segments came about.
        author: the person, or the software that stands for one; becomes ContentCreatorName.
        algorithm_name: name of the algorithm, for example the task; "" only for MANUAL.
        algorithm_version: the model version; "" only for MANUAL.
        description: SeriesDescription, what a viewer's list shows.
        software: Manufacturer and SoftwareVersions of the object.

    Raises:
        InvalidInput: text that DICOM cannot hold, or an algorithm without name or version.
    """

    kind: Literal["AUTOMATIC", "MANUAL", "SEMIAUTOMATIC"]
    author: str
    algorithm_name: str
    algorithm_version: str
    description: str
    software: str = SOFTWARE

    def __post_init__(self) -> None:
        for what in ("author", "algorithm_name", "algorithm_version", "description", "software"):
            text = getattr(self, what)
            if len(text) > MAX_TEXT or any(sign in text for sign in FORBIDDEN):
                raise InvalidInput(
                    f"{what} of a SEG has at most {MAX_TEXT} characters without backslash, = or line end, got {text!r}"
                )
        if self.kind != "MANUAL" and not (self.algorithm_name and self.algorithm_version):
            raise InvalidInput(f"a SEG of kind {self.kind} needs algorithm_name and algorithm_version")


def write_seg(
    mask: Mask, source: SourceSeries, origin: SegOrigin, sop_instance_uid: str, series_uid: str | None = None
) -> Dataset:
    """A BINARY segmentation with one segment for each label of the schema; slices without voxels have no frame.

    Labels that do not occur keep their segment, so that an annotator can paint them. Segments are numbered in the
    schema's order: their names, not their numbers, identify labels.

    Args:
        mask: on the source's grid, or on it with the slices in reverse.
        source: the series it lies on.
        origin: who made it.
        sop_instance_uid: of the new object; the caller fixes it, so that a repeated upload is recognised.
        series_uid: of the new object's series; a fresh one when None.

    Raises:
        InvalidMask: an empty mask; record "nothing found" instead. Slices of fewer than eight pixels.
        GeometryMismatch: the mask lies on another grid.
    """
    if mask.is_empty:
        raise InvalidMask('an empty mask cannot become a SEG; record "nothing found" for the series instead')
    mask = match_slice_order(mask, source.geometry)
    if mask.geometry.shape[1] * mask.geometry.shape[2] < MIN_PIXELS:
        raise InvalidMask(f"a SEG needs at least {MIN_PIXELS} pixels a slice, got a grid of {mask.geometry.describe()}")
    segmentation = Segmentation(
        source_images=[completed_header(header, source) for header in source.headers],
        pixel_array=_segment_numbers(mask),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(n, label, origin) for n, label in enumerate(mask.schema, start=1)],
        series_instance_uid=series_uid or new_uid(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=sop_instance_uid,
        instance_number=1,
        manufacturer=origin.software,
        manufacturer_model_name=origin.algorithm_name or origin.software,
        software_versions=origin.algorithm_version or origin.software,
        device_serial_number=origin.software,
        content_label="SEGMENTATION",
        content_description=origin.description,
        omit_empty_frames=True,
        specific_character_set=UTF8,
        series_description=origin.description,
    )
    for keyword in NAMES:
        setattr(segmentation, keyword, source.headers[0].get(keyword, ""))
    segmentation.ContentCreatorName = origin.author
    return segmentation


def _segment_numbers(mask: Mask) -> npt.NDArray[np.uint8]:
    """Segment numbers (S, R, C), 1 for the schema's first label."""
    table = np.zeros(256, dtype=np.uint8)
    table[list(mask.schema.ids)] = np.arange(1, len(mask.schema) + 1)
    return table[mask.array]


def completed_header(header: Dataset, source: SourceSeries) -> Dataset:
    """A copy of a slice's header with what highdicom asks for and files in the wild lack or have wrong."""
    image = header[:]
    for keyword in OPTIONAL_EMPTY:
        if keyword not in image:
            _replace(image, keyword, "")
    for keyword in NAMES:
        _replace(image, keyword, "")
    spacing_mm = format_number_as_ds(source.geometry.spacing_mm[0])
    _replace(image, "ImageOrientationPatient", list(source.headers[0].ImageOrientationPatient))
    _replace(image, "SpacingBetweenSlices", spacing_mm)
    _replace(image, "SliceThickness", image.get("SliceThickness") or spacing_mm)
    return image


def _replace(image: Dataset, keyword: str, value: Any) -> None:
    """Give a copied data set its own element: assigning to an existing one would change the original's."""
    if keyword in image:
        delattr(image, keyword)
    setattr(image, keyword, value)


def _description(number: int, label: Label, origin: SegOrigin) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=label.name,
        segmented_property_category=concept(label.category),
        segmented_property_type=concept(label.code),
        algorithm_type=SegmentAlgorithmTypeValues(origin.kind),
        algorithm_identification=_algorithm(origin),
        display_color=CIELabColor.from_rgb(*label.color),
    )


def _algorithm(origin: SegOrigin) -> AlgorithmIdentificationSequence | None:
    if origin.kind == "MANUAL":
        return None
    return AlgorithmIdentificationSequence(
        name=origin.algorithm_name,
        family=codes.DCM.ArtificialIntelligence,
        version=origin.algorithm_version,
    )


def concept(code: Code) -> CodedConcept:
    """The code as highdicom takes it."""
    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)
