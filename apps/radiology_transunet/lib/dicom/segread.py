"""A DICOM SEG object -> a Mask on the grid of its source series.

Reads BINARY, FRACTIONAL and LABELMAP objects of any writer. Frames are placed by their position in the patient, not by
frame content or order: OHIF writes no FrameContentSequence, and some slices have no frame.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from lib.core.errors import InvalidSegmentation, UnreadablePixels
from lib.core.geometry import GEOMETRY_TOLERANCE_MM, FloatArray
from lib.core.labels import BACKGROUND, Label, LabelSchema
from lib.core.values import Mask
from lib.dicom.answers import text_of
from lib.dicom.files import malformed_as
from lib.dicom.pixels import frames
from lib.dicom.segheader import functional_group, is_labelmap, require_seg, source_image
from lib.dicom.series import SourceSeries

PLANE_TOLERANCE_MM = GEOMETRY_TOLERANCE_MM
"""A frame belongs to a slice when its corners lie this close to the slice's corners."""

FRACTION_THRESHOLD = 0.5
"""Share of a fractional segment's maximum from which a voxel belongs to it."""


def read_seg(dataset: Dataset, source: SourceSeries, schema: LabelSchema) -> Mask:
    """The mask on the source's grid; slices without a frame are background.

    Segments become labels by name. Two segments of one label are united. A voxel in segments of two labels is refused
    in a BINARY object; in a FRACTIONAL one it goes to the larger fraction, then to the earlier frame. A
    segment of an unknown name is refused unless it has no voxel.

    Args:
        dataset: the SEG object with its pixel data.
        source: the series it lies on.
        schema: labels by name.

    Raises:
        InvalidSegmentation: no SEG, another series, space, size or place than the source's, unknown segment
            names, overlapping segments, pixel data that cannot be decoded.
    """
    require_seg(dataset)
    with malformed_as(InvalidSegmentation, "the SEG"):
        _require_source(dataset, source)
        canvas = _Canvas(source, _labels_by_number(dataset, schema), schema)
        try:
            _paint(dataset, canvas, Placement(source))
        except UnreadablePixels as error:
            raise InvalidSegmentation(f"the SEG cannot be read: {error}") from error
        return canvas.mask()


def _paint(dataset: Dataset, canvas: "_Canvas", placement: "Placement") -> None:
    for index, values in enumerate(frames(dataset)):
        position = placement.slice_of(dataset, index)
        for number, region, weight in _regions(dataset, index, values):
            canvas.paint(position, number, region, weight)


@dataclass(frozen=True, slots=True)
class _Segment:
    name: str
    label: Label | None


class Placement:
    """Finds the slice of the source that a frame lies on."""

    def __init__(self, source: SourceSeries) -> None:
        geometry = source.geometry
        self._corners_index = np.array([(0, 0), (geometry.shape[1] - 1, 0), (0, geometry.shape[2] - 1)], dtype=float)
        stated = _plane(source.headers[0].ImageOrientationPatient, source.headers[0].PixelSpacing)
        self._planes = (geometry.affine[:3, 1:3], stated)  # straightened, and as written: cosines may be rounded
        even_mm = geometry.to_lps([(index, 0, 0) for index in range(geometry.shape[0])])
        stated_mm = np.array([[float(x) for x in header.ImagePositionPatient] for header in source.headers])
        self._starts_mm = np.stack([stated_mm, even_mm])  # (2, S, 3): where slices say they are, and the even grid
        self._slice_of_image = {str(header.SOPInstanceUID): index for index, header in enumerate(source.headers)}

    def slice_of(self, dataset: Dataset, index: int) -> int:
        """Slice number of frame `index`, counted from 0."""
        position = functional_group(dataset, index, "PlanePositionSequence")
        if position is None:
            return self._by_reference(dataset, index)
        start_mm = np.array([float(x) for x in position.ImagePositionPatient])
        distances_mm = np.linalg.norm(self._starts_mm - start_mm, axis=2).min(axis=0)  # (S,)
        nearest = int(distances_mm.argmin())
        if distances_mm[nearest] > PLANE_TOLERANCE_MM:
            raise InvalidSegmentation(
                f"frame {index + 1} must start within {PLANE_TOLERANCE_MM} mm of a slice of the series, it starts at "
                f"{np.round(start_mm, 3).tolist()} mm, {distances_mm[nearest]:.3f} mm from slice {nearest + 1}"
            )
        self._require_parallel(dataset, index)
        return nearest

    def _by_reference(self, dataset: Dataset, index: int) -> int:
        image = source_image(dataset, index)
        if image not in self._slice_of_image:
            raise InvalidSegmentation(
                f"frame {index + 1} has no PlanePositionSequence and refers to image {image or '(none)'}, "
                "which is not of the series; it cannot be placed"
            )
        return self._slice_of_image[image]

    def _require_parallel(self, dataset: Dataset, index: int) -> None:
        """The frame's far corners must lie where the slice's are."""
        orientation = functional_group(dataset, index, "PlaneOrientationSequence")
        measures = functional_group(dataset, index, "PixelMeasuresSequence")
        if orientation is None or measures is None:
            raise InvalidSegmentation(f"frame {index + 1} has no PlaneOrientationSequence or PixelMeasuresSequence")
        plane = _plane(orientation.ImageOrientationPatient, measures.PixelSpacing)
        off_mm = min(float(np.linalg.norm(self._corners_index @ (plane - own).T, axis=1).max()) for own in self._planes)
        if off_mm > PLANE_TOLERANCE_MM:
            raise InvalidSegmentation(
                f"frame {index + 1} must lie on the pixels of the series within {PLANE_TOLERANCE_MM} mm, a corner is "
                f"{off_mm:.3f} mm off; is it turned, flipped or of another pixel spacing?"
            )


def _plane(orientation: Iterable[Any], spacing: Iterable[Any]) -> FloatArray:
    """Steps in mm to the next row and the next column, (3, 2) as in the affine, of DICOM's own words."""
    cosines = np.array([float(x) for x in orientation]).reshape(2, 3)
    row_gap_mm, column_gap_mm = (float(x) for x in spacing)
    return np.stack([cosines[1] * row_gap_mm, cosines[0] * column_gap_mm], axis=1)


class _Canvas:
    """The mask under construction."""

    def __init__(self, source: SourceSeries, segments: dict[int, _Segment], schema: LabelSchema) -> None:
        self._geometry = source.geometry
        self._schema = schema
        self._segments = segments
        self._array = np.zeros(source.geometry.shape, dtype=np.uint8)
        self._weights: FloatArray | None = None
        self._unknown: dict[str, int] = {}

    def paint(self, position: int, number: int, region: npt.NDArray[np.bool_], weight: FloatArray | None) -> None:
        """Give the region (R, C) of a slice to a segment; weights (R, C) decide where segments overlap."""
        segment = self._segments.get(number, _Segment(f"(undescribed segment {number})", None))
        if segment.label is None:
            self._unknown[segment.name] = self._unknown.get(segment.name, 0) + int(region.sum())
            return
        if weight is not None:
            region = self._heavier(position, region, weight)
        else:
            self._require_free(position, segment.label, region)
        self._array[position][region] = segment.label.id

    def mask(self) -> Mask:
        """The finished mask."""
        if any(self._unknown.values()):
            found = ", ".join(f"{name!r} ({count} voxels)" for name, count in sorted(self._unknown.items()) if count)
            raise InvalidSegmentation(f"segments must be named as one of {', '.join(self._schema.names)}, got {found}")
        return Mask(self._array, self._geometry, self._schema)

    def _heavier(self, position: int, region: npt.NDArray[np.bool_], weight: FloatArray) -> npt.NDArray[np.bool_]:
        if self._weights is None:
            self._weights = np.zeros(self._geometry.shape, dtype=np.float32)
        won = region & (weight > self._weights[position])
        self._weights[position][won] = weight[won]
        return np.asarray(won)

    def _require_free(self, position: int, label: Label, region: npt.NDArray[np.bool_]) -> None:
        held = self._array[position][region]
        others = held[(held != BACKGROUND) & (held != label.id)]
        if others.size:
            names = [other.name for other in self._schema if other.id in others]
            raise InvalidSegmentation(
                f"a voxel may belong to one label; {label.name!r} overlaps {', '.join(map(repr, names))} in "
                f"{others.size} voxels of slice {position + 1}"
            )


def _regions(
    dataset: Dataset, index: int, values: npt.NDArray[np.generic]
) -> Iterator[tuple[int, npt.NDArray[np.bool_], FloatArray | None]]:
    """Segment number, region (R, C) and weights (R, C) of all segments in one frame."""
    if is_labelmap(dataset):
        empty = {BACKGROUND, int(dataset.get("PixelPaddingValue", BACKGROUND))}
        for number in sorted(set(np.unique(values).tolist()) - empty):
            yield int(number), np.asarray(values == number), None
        return
    number = _segment_number(dataset, index)
    if text_of(dataset, "SegmentationType") != "FRACTIONAL":
        yield number, np.asarray(values != 0), None
        return
    fractions = np.asarray(values, dtype=np.float64) / float(dataset.get("MaximumFractionalValue") or 255)
    yield number, np.asarray(fractions >= FRACTION_THRESHOLD), fractions


def _require_source(dataset: Dataset, source: SourceSeries) -> None:
    """The object must say that it lies in the source's space, on its series and on its pixels."""
    space = dataset.get("FrameOfReferenceUID")
    if space != source.frame_of_reference_uid:
        raise InvalidSegmentation(
            f"the SEG must have the series' frame of reference {source.frame_of_reference_uid}, got {space}"
        )
    referenced = [text_of(item, "SeriesInstanceUID") for item in dataset.get("ReferencedSeriesSequence") or ()]
    if referenced and source.series_uid not in referenced:
        raise InvalidSegmentation(f"the SEG must refer to series {source.series_uid}, got {', '.join(referenced)}")
    size = (int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0))
    if size != source.geometry.shape[1:]:
        raise InvalidSegmentation(
            f"the SEG must have {source.geometry.shape[1:]} rows and columns as the series, got {size}"
        )


def _labels_by_number(dataset: Dataset, schema: LabelSchema) -> dict[int, _Segment]:
    found = {}
    for item in dataset.get("SegmentSequence") or ():
        name = text_of(item, "SegmentLabel")
        found[int(item.SegmentNumber)] = _Segment(name or f"(nameless segment {item.SegmentNumber})", schema.find(name))
    if not found:
        raise InvalidSegmentation("a SEG needs a SegmentSequence, got none")
    return found


def _segment_number(dataset: Dataset, index: int) -> int:
    item = functional_group(dataset, index, "SegmentIdentificationSequence")
    if item is None or "ReferencedSegmentNumber" not in item:
        raise InvalidSegmentation(f"frame {index + 1} does not say which segment it shows")
    return int(item.ReferencedSegmentNumber)
