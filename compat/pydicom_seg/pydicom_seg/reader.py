"""A DICOM SEG -> a SimpleITK label image; frames are placed by their position in the patient."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK
from pydicom import Dataset

TOLERANCE_MM = 0.01


@dataclass(frozen=True)
class MultiClassResult:
    """What a SEG holds.

    Attributes:
        dataset: the SEG.
        image: label values on the grid that its frames span; the value of a segment is its number.
        segment_infos: segment descriptions by number.
        referenced_series_uid: the series it lies on, "" when it names none.
    """

    dataset: Dataset
    image: SimpleITK.Image
    segment_infos: dict[int, Dataset]
    referenced_series_uid: str

    @property
    def data(self) -> npt.NDArray[np.uint16]:
        """Label values (S, R, C)."""
        return np.asarray(SimpleITK.GetArrayFromImage(self.image))


class MultiClassReader:
    """Reads BINARY and LABELMAP objects, whose segments must not overlap."""

    def read(self, dataset: Dataset) -> MultiClassResult:
        """The label image.

        Raises:
            ValueError: no SEG, a fractional one, frames that span no even grid, overlapping segments.
        """
        kind = dataset.get("SegmentationType")
        if kind not in ("BINARY", "LABELMAP"):
            raise ValueError(f"a SEG of type BINARY or LABELMAP is needed, got {kind}")
        frames = dataset.pixel_array.reshape(-1, int(dataset.Rows), int(dataset.Columns))  # (F, R, C)
        image, slices = _empty_image(dataset, len(frames))
        values = SimpleITK.GetArrayFromImage(image)
        for index, (frame, position) in enumerate(zip(frames, slices, strict=True)):
            painted = frame if kind == "LABELMAP" else frame * np.uint16(_segment_number(dataset, index))
            clash = (values[position] != 0) & (painted != 0) & (values[position] != painted)
            if clash.any():
                raise ValueError(f"segments must not overlap, {int(clash.sum())} voxels of frame {index + 1} do")
            values[position] = np.maximum(values[position], painted)
        labelled = SimpleITK.GetImageFromArray(values)
        labelled.CopyInformation(image)
        references = dataset.get("ReferencedSeriesSequence") or ()
        return MultiClassResult(
            dataset=dataset,
            image=labelled,
            segment_infos={int(item.SegmentNumber): item for item in dataset.SegmentSequence},
            referenced_series_uid=str(references[0].SeriesInstanceUID) if references else "",
        )


def _empty_image(dataset: Dataset, count: int) -> tuple[SimpleITK.Image, list[int]]:
    """The grid of all frames, and the slice that each frame lies on."""
    orientation = _group(dataset, 0, "PlaneOrientationSequence").ImageOrientationPatient
    row, column = np.array(orientation, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    starts_mm = np.array(
        [_group(dataset, i, "PlanePositionSequence").ImagePositionPatient for i in range(count)], dtype=float
    )
    heights_mm = starts_mm @ normal
    measures = _group(dataset, 0, "PixelMeasuresSequence")
    gap_mm = _gap_mm(heights_mm, measures)
    places = (heights_mm - heights_mm.min()) / gap_mm
    slices = np.rint(places).astype(int)
    if np.abs(places - slices).max() * gap_mm > TOLERANCE_MM * max(len(slices), 1):
        raise ValueError(f"frames must lie on an even grid of {gap_mm} mm, got heights {sorted(set(heights_mm))}")
    image = SimpleITK.Image(int(dataset.Columns), int(dataset.Rows), int(slices.max()) + 1, SimpleITK.sitkUInt16)
    image.SetOrigin(starts_mm[int(heights_mm.argmin())].tolist())
    row_gap_mm, column_gap_mm = (float(value) for value in measures.PixelSpacing)
    image.SetSpacing((column_gap_mm, row_gap_mm, gap_mm))
    image.SetDirection(np.stack([row, column, normal], axis=1).reshape(-1).tolist())
    return image, slices.tolist()


def _gap_mm(heights_mm: npt.NDArray[np.float64], measures: Dataset) -> float:
    """Distance of slices: as the SEG says, else the smallest between two frames."""
    stated = abs(float(measures.get("SpacingBetweenSlices") or 0.0))
    steps = np.diff(np.unique(heights_mm.round(3)))
    if stated or not steps.size:
        return stated or float(measures.get("SliceThickness") or 1.0)
    return float(steps.min())


def _segment_number(dataset: Dataset, index: int) -> int:
    return int(_group(dataset, index, "SegmentIdentificationSequence").ReferencedSegmentNumber)


def _group(dataset: Dataset, index: int, keyword: str) -> Dataset:
    """First item of a functional group of a frame, its own before the shared one."""
    for groups in (dataset.PerFrameFunctionalGroupsSequence[index], dataset.SharedFunctionalGroupsSequence[0]):
        items = groups.get(keyword)
        if items:
            return items[0]
    raise ValueError(f"frame {index + 1} lacks {keyword}")
