"""A Volume -> a CT or MR series, one slice a file.

CT voxels become whole HU. MR voxels stay exact when they are whole numbers of a span that 16 bits hold; other values
are spread over 16 bits with a rescale slope, so they come back within half a step.
"""

import hashlib
import uuid
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from lib.core.errors import InvalidInput, InvalidVolume
from lib.core.geometry import Geometry
from lib.core.values import Volume

SOFTWARE = "radiology_transunet"
SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}
SHEAR_TOLERANCE = 1e-4
"""Largest cosine between two axes of a grid that a series can hold."""

CT_WINDOW_HU = (50.0, 400.0)
"""Centre and width that a viewer shows first: soft tissue."""

MR_WINDOW_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True, slots=True)
class SeriesIdentity:
    """Whose images these are, and what they are called.

    Attributes:
        patient_id: PatientID, at most 64 characters.
        patient_name: PatientName, for example "Phantom^One".
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID; the instances' UIDs follow from it, so writing twice gives the same ones.
        frame_of_reference_uid: FrameOfReferenceUID.
        description: SeriesDescription.
        study_description: StudyDescription.
        accession: AccessionNumber, at most 16 characters.
        date: study and series date as YYYYMMDD, or "".
        institution: InstitutionName.
        manufacturer: Manufacturer.
        series_number: SeriesNumber.
    """

    patient_id: str
    patient_name: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    description: str
    study_description: str = ""
    accession: str = ""
    date: str = ""
    institution: str = ""
    manufacturer: str = SOFTWARE
    series_number: int = 1

    def __post_init__(self) -> None:
        if not self.patient_id.strip() or len(self.patient_id) > 64:
            raise InvalidInput(f"a patient id has 1 to 64 characters, got {self.patient_id!r}")
        if len(self.accession) > 16:
            raise InvalidInput(f"an accession number has at most 16 characters, got {self.accession!r}")
        if self.date and not (len(self.date) == 8 and self.date.isdigit()):
            raise InvalidInput(f"a date is YYYYMMDD, got {self.date!r}")


@dataclass(frozen=True, slots=True, eq=False)
class _Stored:
    """Integers (S, R, C) with the numbers that give the values back."""

    array: npt.NDArray[np.int16] | npt.NDArray[np.uint16]
    slope: str
    intercept: str


def series_to_datasets(volume: Volume, identity: SeriesIdentity) -> list[Dataset]:
    """A valid CT or MR series of the volume, one data set a slice, in the volume's slice order.

    `assemble` gives the volume back; when the volume counts its slices against the normal of their planes, it comes
    back with the slices reversed, each at its place.

    Args:
        volume: modality "CT" or "MR", on a grid without shear.
        identity: patient, study and series.

    Raises:
        InvalidVolume: another modality, a sheared grid, HU that 16 bits cannot hold.
    """
    if volume.modality not in SOP_CLASSES:
        raise InvalidVolume(f"only {' and '.join(SOP_CLASSES)} volumes become a series, got {volume.modality!r}")
    _require_orthogonal(volume.geometry)
    stored = _hounsfield(volume) if volume.modality == "CT" else _scaled(volume)
    window = CT_WINDOW_HU if volume.modality == "CT" else _mr_window(volume)
    return [_instance(volume, stored, window, identity, index) for index in range(volume.geometry.shape[0])]


def instance_uid(series_uid: str, index: int) -> str:
    """The SOPInstanceUID of a slice of a series that we write: always the same for the same arguments."""
    digest = hashlib.sha256(f"{series_uid}/{index}".encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def new_uid() -> str:
    """A fresh UID."""
    return f"2.25.{uuid.uuid4().int}"


def _require_orthogonal(geometry: Geometry) -> None:
    axes = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear > SHEAR_TOLERANCE:
        raise InvalidVolume(f"a series needs orthogonal axes within {SHEAR_TOLERANCE}, got a cosine of {shear:.4f}")


def _hounsfield(volume: Volume) -> _Stored:
    rounded = np.rint(volume.array)
    limits = np.iinfo(np.int16)
    low, high = float(rounded.min()), float(rounded.max())
    if low < limits.min or high > limits.max:
        raise InvalidVolume(f"HU must lie in [{limits.min}, {limits.max}] to be stored, got [{low:.0f}, {high:.0f}]")
    return _Stored(rounded.astype(np.int16), "1", "0")


def _scaled(volume: Volume) -> _Stored:
    limit = np.iinfo(np.uint16).max
    values = volume.array.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if high - low <= limit and np.array_equal(values, np.rint(values)):
        start = 0.0 if low >= 0 and high <= limit else low
        return _Stored((values - start).astype(np.uint16), "1", format_number_as_ds(start))
    intercept = format_number_as_ds(low)
    slope = format_number_as_ds((high - low) / limit if high > low else 1.0)
    steps = np.rint((values - float(intercept)) / float(slope))
    return _Stored(steps.clip(0, limit).astype(np.uint16), slope, intercept)


def _mr_window(volume: Volume) -> tuple[float, float]:
    low, high = np.percentile(volume.array, MR_WINDOW_PERCENTILES)
    return float(low + high) / 2, max(float(high - low), 1.0)


def _instance(
    volume: Volume, stored: _Stored, window: tuple[float, float], identity: SeriesIdentity, index: int
) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SOP_CLASSES[volume.modality]
    dataset.SOPInstanceUID = instance_uid(identity.series_uid, index)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.InstanceNumber = index + 1
    _add_identity(dataset, identity)
    _add_plane(dataset, volume.geometry, index)
    _add_acquisition(dataset, volume.modality)
    _add_pixels(dataset, stored, index)
    dataset.WindowCenter, dataset.WindowWidth = (format_number_as_ds(value) for value in window)
    return dataset


def _add_identity(dataset: Dataset, identity: SeriesIdentity) -> None:
    dataset.PatientID, dataset.PatientName = identity.patient_id, identity.patient_name
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = identity.study_uid, identity.series_uid
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = identity.frame_of_reference_uid, ""
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = identity.date
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "000000" if identity.date else ""
    dataset.StudyID = dataset.ReferringPhysicianName = ""
    dataset.AccessionNumber, dataset.StudyDescription = identity.accession, identity.study_description
    dataset.SeriesDescription, dataset.SeriesNumber = identity.description, identity.series_number
    dataset.InstitutionName, dataset.Manufacturer = identity.institution, identity.manufacturer
    dataset.SoftwareVersions = SOFTWARE


def _add_plane(dataset: Dataset, geometry: Geometry, index: int) -> None:
    slice_mm, row_mm, column_mm = geometry.spacing_mm
    along_row, down_column = geometry.affine[:3, 2] / column_mm, geometry.affine[:3, 1] / row_mm
    position_mm = geometry.to_lps((index, 0, 0))
    dataset.ImagePositionPatient = [format_number_as_ds(float(value)) for value in position_mm]
    dataset.ImageOrientationPatient = [format_number_as_ds(float(v)) for v in (*along_row, *down_column)]
    dataset.PixelSpacing = [format_number_as_ds(row_mm), format_number_as_ds(column_mm)]
    dataset.SliceThickness = format_number_as_ds(slice_mm)
    normal = np.cross(along_row, down_column)
    dataset.SliceLocation = format_number_as_ds(float(position_mm @ normal))
    dataset.PatientPosition = "HFS"


def _add_acquisition(dataset: Dataset, modality: str) -> None:
    """Attributes that CT Image and MR Image ask for; those of an unknown scanner stay empty."""
    dataset.Modality, dataset.AcquisitionNumber, dataset.BodyPartExamined = modality, 1, ""
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"]
    if modality == "CT":
        dataset.KVP = None
        dataset.RescaleType = "HU"
        return
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
    dataset.MRAcquisitionType = dataset.EchoTime = dataset.RepetitionTime = dataset.EchoTrainLength = None
    dataset.RescaleType = "US"


def _add_pixels(dataset: Dataset, stored: _Stored, index: int) -> None:
    array = stored.array[index]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = array.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(array.dtype == np.int16)
    dataset.RescaleSlope, dataset.RescaleIntercept = stored.slope, stored.intercept
    dataset.PixelData = array.astype(array.dtype.newbyteorder("<")).tobytes()
