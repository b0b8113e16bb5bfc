"""A SEG as OHIF 3.13 stores it: LABELMAP, placed by position alone, without FrameContentSequence."""

import datetime

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from lib.core.values import Mask
from lib.dicom.files import encode
from lib.dicom.series import SourceSeries
from lib.dicom.writer import new_uid

LABELMAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
PATIENT_AND_STUDY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID",
)  # fmt: skip


def ohif_export(mask: Mask, source: SourceSeries, names: dict[int, str] | None = None, rle: bool = False) -> bytes:
    """The file that OHIF sends with STOW after an export.

    Args:
        mask: on the source's grid; slices without voxels are left out.
        source: the series.
        names: segment label by voxel value; the schema's when None.
        rle: compressed as OHIF does with the RLE transfer syntax.
    """
    names = names or {label.id: label.name for label in mask.schema}
    dataset = _header(source, rle)
    numbers = {value: number for number, value in enumerate(names, start=1)}
    dataset.SegmentSequence = Sequence([_segment(numbers[value], name) for value, name in names.items()])
    shown = [index for index in range(mask.array.shape[0]) if mask.array[index].any()]
    table = np.zeros(256, np.uint8)
    for value, number in numbers.items():
        table[value] = number
    frames = table[mask.array[shown]]
    dataset.NumberOfFrames = len(shown)
    dataset.PerFrameFunctionalGroupsSequence = Sequence([_placed(source, index) for index in shown])
    _set_pixels(dataset, frames, rle)
    return encode(dataset)


def _header(source: SourceSeries, rle: bool) -> Dataset:
    first = source.headers[0]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = RLELossless if rle else ExplicitVRLittleEndian
    for keyword in PATIENT_AND_STUDY:
        setattr(dataset, keyword, first.get(keyword, ""))
    now = datetime.datetime.now()
    dataset.SOPClassUID = LABELMAP_STORAGE
    dataset.SOPInstanceUID = new_uid()
    dataset.SeriesInstanceUID = new_uid()
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "SEG", 3000, 1
    dataset.SeriesDescription = "Research Derived series"
    dataset.Manufacturer, dataset.SegmentationType = "Unspecified", "LABELMAP"
    dataset.ContentDate, dataset.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.ContentCreatorName, dataset.ContentLabel = "", "MANUAL"
    dataset.Rows, dataset.Columns = source.geometry.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = first.PixelSpacing
    measures.SliceThickness = first.get("SliceThickness", source.geometry.spacing_mm[0])
    measures.SpacingBetweenSlices = source.geometry.spacing_mm[0]
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    series = Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ReferencedInstanceSequence = Sequence([_reference(header) for header in source.headers])
    dataset.ReferencedSeriesSequence = Sequence([series])
    return dataset


def _reference(header: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = header.SOPClassUID
    reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return reference


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return code


def _segment(number: int, name: str) -> Dataset:
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel = number, name
    segment.SegmentAlgorithmType, segment.SegmentAlgorithmName = "MANUAL", "OHIF Brush"
    segment.SegmentedPropertyCategoryCodeSequence = Sequence([_code("85756007", "Tissue")])
    segment.SegmentedPropertyTypeCodeSequence = Sequence([_code("85756007", "Tissue")])
    return segment


def _placed(source: SourceSeries, index: int) -> Dataset:
    """A frame's place: its position and the image it was drawn on, no dimension indices."""
    position, derivation, image, frame = Dataset(), Dataset(), _reference(source.headers[index]), Dataset()
    position.ImagePositionPatient = source.headers[index].ImagePositionPatient
    derivation.SourceImageSequence = Sequence([image])
    frame.PlanePositionSequence = Sequence([position])
    frame.DerivationImageSequence = Sequence([derivation])
    return frame


def _set_pixels(dataset: Dataset, frames: np.ndarray, rle: bool) -> None:
    if not rle:
        dataset.PixelData = frames.tobytes() + b"\0" * (frames.size % 2)
        dataset["PixelData"].VR = "OB"
        return
    options = {
        "rows": dataset.Rows,
        "columns": dataset.Columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": 8,
        "bits_stored": 8,
        "pixel_representation": 0,
        "number_of_frames": 1,
    }
    encoded = [RLELosslessEncoder.encode(frame.tobytes(), **options) for frame in frames]
    dataset.PixelData = encapsulate(encoded)
    dataset["PixelData"].VR = "OB"
