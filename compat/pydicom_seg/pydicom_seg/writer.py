"""A SimpleITK label image -> a BINARY DICOM SEG over its source images."""

import uuid
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import numpy.typing as npt
import SimpleITK
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from pydicom import Dataset
from pydicom.sr.codedict import codes

TOLERANCE_MM = 0.01
NAMES = ("PatientName", "ReferringPhysicianName")
OPTIONAL_EMPTY = (
    "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime", *NAMES,
)  # fmt: skip


class MultiClassWriter:
    """Writes one segment for each label of a template.

    Args:
        template: of `pydicom_seg.template.from_dcmqi_metainfo`; SegmentNumber is the label's value.
        inplane_cropping: must be False; cropped frames are not written.
        skip_empty_slices: leave out frames without a voxel.
        skip_missing_segment: leave out segments without a voxel rather than refuse the mask.

    Raises:
        ValueError: inplane_cropping.
    """

    def __init__(
        self,
        template: Dataset,
        inplane_cropping: bool = False,
        skip_empty_slices: bool = True,
        skip_missing_segment: bool = False,
    ) -> None:
        if inplane_cropping:
            raise ValueError("inplane_cropping is not supported; pass False")
        self._template = template
        self._skip_empty_slices = skip_empty_slices
        self._skip_missing_segment = skip_missing_segment

    def write(self, segmentation: SimpleITK.Image, source_images: Sequence[Dataset]) -> Dataset:
        """The SEG; its segment numbers are the label values, so a reader gets the same values back.

        Args:
            segmentation: label values on the grid of the source images; its axes may run the other way.
            source_images: the single-slice images, in any order; pixel data is not needed.

        Raises:
            ValueError: another grid, values that the template does not describe, or that do not occur.
        """
        sources = _sorted(source_images)
        values = _on_grid(segmentation, sources)
        segments = self._described(values)
        numbers = np.zeros(int(values.max()) + 1, dtype=np.uint16)
        for number, segment in enumerate(segments, start=1):
            numbers[segment.SegmentNumber] = number
        seg = self._build(sources, numbers[values], segments)
        _renumber(seg, [segment.SegmentNumber for segment in segments])
        return seg

    def _described(self, values: npt.NDArray[np.uint16]) -> list[Dataset]:
        """The template's segments to write, ordered by label value."""
        found = set(np.unique(values).tolist()) - {0}
        known = {int(item.SegmentNumber): item for item in self._template.SegmentSequence}
        if not found or found - set(known):
            raise ValueError(f"label values must be among {sorted(known)} and not all 0, got {sorted(found)}")
        missing = set(known) - found
        if missing and not self._skip_missing_segment:
            raise ValueError(f"labels {sorted(missing)} of the template do not occur in the mask")
        return [known[value] for value in sorted(found)]

    def _build(
        self, sources: Sequence[Dataset], numbers: npt.NDArray[np.uint16], segments: Sequence[Dataset]
    ) -> Segmentation:
        seg = Segmentation(
            source_images=[_completed(image) for image in sources],
            pixel_array=numbers,
            segmentation_type="BINARY",
            segment_descriptions=[_description(number, item) for number, item in enumerate(segments, start=1)],
            series_instance_uid=_new_uid(),
            series_number=int(self._template.get("SeriesNumber", 300)),
            sop_instance_uid=_new_uid(),
            instance_number=int(self._template.get("InstanceNumber", 1)),
            manufacturer="pydicom-seg",
            manufacturer_model_name="MultiClassWriter",
            software_versions="0.4.1.post1",
            device_serial_number="1",
            content_label="SEGMENTATION",
            omit_empty_frames=self._skip_empty_slices,
            specific_character_set="ISO_IR 192",
        )
        for keyword in NAMES:
            setattr(seg, keyword, sources[0].get(keyword, ""))
        for item in self._template:
            if item.keyword not in ("SegmentSequence", "SeriesNumber", "InstanceNumber") and item.value:
                seg.add(deepcopy(item))
        return seg


def _sorted(source_images: Sequence[Dataset]) -> list[Dataset]:
    if not source_images:
        raise ValueError("at least one source image is needed, got none")
    normal = np.cross(*np.array(source_images[0].ImageOrientationPatient, dtype=float).reshape(2, 3))
    return sorted(source_images, key=lambda image: float(np.dot(normal, np.array(image.ImagePositionPatient, float))))


def _on_grid(segmentation: SimpleITK.Image, sources: Sequence[Dataset]) -> npt.NDArray[np.uint16]:
    """Label values (S, R, C) on the grid of the sorted source images."""
    grid = _grid(sources)
    gaps_mm = np.linalg.norm(_corners(grid)[:, None] - _corners(segmentation)[None], axis=2).min(axis=1)
    if gaps_mm.max() > TOLERANCE_MM or np.prod(grid.GetSize()) != np.prod(segmentation.GetSize()):
        raise ValueError(
            f"the mask must lie on the grid of the source images ({grid.GetSize()} from {grid.GetOrigin()}), "
            f"got {segmentation.GetSize()} from {segmentation.GetOrigin()}"
        )
    nearest, identity = SimpleITK.sitkNearestNeighbor, SimpleITK.Transform()
    placed = SimpleITK.Resample(segmentation, grid, identity, nearest, 0, SimpleITK.sitkUInt16)
    return np.asarray(SimpleITK.GetArrayFromImage(placed))


def _grid(sources: Sequence[Dataset]) -> SimpleITK.Image:
    first, last = sources[0], sources[-1]
    row, column = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    start, end = (np.array(image.ImagePositionPatient, dtype=float) for image in (first, last))
    gap_mm = float(np.linalg.norm(end - start)) / max(len(sources) - 1, 1) or float(first.get("SliceThickness") or 1)
    grid = SimpleITK.Image(int(first.Columns), int(first.Rows), len(sources), SimpleITK.sitkUInt8)
    grid.SetOrigin(start.tolist())
    row_gap_mm, column_gap_mm = (float(value) for value in first.PixelSpacing)
    grid.SetSpacing((column_gap_mm, row_gap_mm, gap_mm))
    grid.SetDirection(np.stack([row, column, np.cross(row, column)], axis=1).reshape(-1).tolist())
    return grid


def _corners(image: SimpleITK.Image) -> npt.NDArray[np.float64]:
    """LPS positions (8, 3) of the outermost voxel centres in mm."""
    last = [size - 1 for size in image.GetSize()]
    picks = [(i * last[0], j * last[1], k * last[2]) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    return np.array([image.TransformIndexToPhysicalPoint(pick) for pick in picks])


def _completed(image: Dataset) -> Dataset:
    """A copy with what highdicom asks for; names go in afterwards, since it warns of those without a caret."""
    copied = Dataset()
    for item in image[:0x60000000]:
        if item.keyword not in NAMES:
            copied.add(item)
    for keyword in OPTIONAL_EMPTY:
        if keyword not in copied:
            setattr(copied, keyword, "")
    return copied


def _description(number: int, item: Dataset) -> SegmentDescription:
    algorithm = None
    if item.SegmentAlgorithmType != "MANUAL":
        algorithm = AlgorithmIdentificationSequence(
            name=item.SegmentAlgorithmName, family=codes.DCM.ArtificialIntelligence, version="1"
        )
    description = SegmentDescription(
        segment_number=number,
        segment_label=item.SegmentLabel,
        segmented_property_category=item.SegmentedPropertyCategoryCodeSequence[0],
        segmented_property_type=item.SegmentedPropertyTypeCodeSequence[0],
        algorithm_type=item.SegmentAlgorithmType,
        algorithm_identification=algorithm,
    )
    description.SegmentDescription = item.SegmentDescription
    description.RecommendedDisplayCIELabValue = list(item.RecommendedDisplayCIELabValue)
    return description


def _renumber(seg: Dataset, values: Sequence[int]) -> None:
    """Segment numbers 1, 2, ... become label values, as the original package wrote them."""
    for item in seg.SegmentSequence:
        item.SegmentNumber = values[item.SegmentNumber - 1]
    for groups in (*seg.SharedFunctionalGroupsSequence, *seg.PerFrameFunctionalGroupsSequence):
        for item in groups.get("SegmentIdentificationSequence") or ():
            item.ReferencedSegmentNumber = values[item.ReferencedSegmentNumber - 1]


def _new_uid() -> str:
    return f"2.25.{uuid.uuid4().int}"
