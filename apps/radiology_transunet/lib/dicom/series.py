"""Instances of one series -> a Volume, or the reason why they are none.

Slices are ordered along the normal of their planes (row direction x column direction), whatever
their numbers say, so oblique and reversed series come out alike. Nothing is guessed: a series with a gap,
a tilt or two geometries is refused with both numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from lib.core.errors import InconsistentSeries
from lib.core.geometry import FloatArray, Geometry
from lib.core.values import Mask, Volume
from lib.dicom.files import malformed_as
from lib.dicom.pixels import name_of, require_grey, slice_values

DIRECTION_TOLERANCE = 1e-4
"""Largest difference of direction cosines that still is one orientation."""

UNIT_TOLERANCE = 1e-3
"""Largest error of the direction cosines' lengths and angle; rounded ones are straightened."""

GAP_TOLERANCE = 0.02
"""Largest deviation of a slice gap from the median gap, as a share of it."""

GAP_FLOOR_MM = 0.02
"""Deviations of a slice gap up to this are rounding, however thin the slices."""

DRIFT_TOLERANCE_MM = 0.1
"""No slice may lie further from its place on the even grid."""

DUPLICATE_MM = 0.001
"""Slices closer than this share one position."""

FIRST_HEADER_END = 0x60000000
"""Overlays and pixel data, from this tag on, are left out of headers."""

PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality")


@dataclass(frozen=True, slots=True, eq=False)
class SourceSeries:
    """A series of the archive as a volume.

    Attributes:
        volume: its voxels.
        headers: one data set a slice, in the volume's slice order, without pixel data.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        frame_of_reference_uid: FrameOfReferenceUID.
        findings: harmless remarks in words.
    """

    volume: Volume
    headers: tuple[Dataset, ...]
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    findings: tuple[str, ...]

    @property
    def geometry(self) -> Geometry:
        """The volume's grid."""
        return self.volume.geometry

    @property
    def description(self) -> str:
        """SeriesDescription, "" without one."""
        return str(self.headers[0].get("SeriesDescription") or "")


def assemble(datasets: Sequence[Dataset]) -> SourceSeries:
    """The volume that single-slice grey instances make.

    Args:
        datasets: instances with pixel data, in any order; they stay as they are.

    Raises:
        InconsistentSeries: no instance, several series, localizers, two sizes, spacings or orientations,
            a missing position, slices at one position, a gap, a tilted gantry.
        UnreadablePixels: missing or undecodable pixel data, colour, multi-frame objects.
    """
    if not datasets:
        raise InconsistentSeries("a volume needs at least one instance, got none")
    with malformed_as(InconsistentSeries, "a header of the series"):
        return _assemble(datasets)


def _assemble(datasets: Sequence[Dataset]) -> SourceSeries:
    for dataset in datasets:
        _require_image(dataset)
    identity = {keyword: _the_only(datasets, keyword) for keyword in IDENTITY}
    ordered, positions_mm = _sorted(datasets)
    geometry, findings = _grid(ordered, positions_mm)
    array = np.empty(geometry.shape, dtype=np.float32)
    for index, dataset in enumerate(ordered):
        array[index] = _slice(dataset, geometry)
    return SourceSeries(
        volume=Volume(array, geometry, identity["Modality"]),
        headers=tuple(dataset[:FIRST_HEADER_END] for dataset in ordered),
        study_uid=identity["StudyInstanceUID"],
        series_uid=identity["SeriesInstanceUID"],
        frame_of_reference_uid=identity["FrameOfReferenceUID"],
        findings=(*findings, *_remarks(ordered)),
    )


def match_slice_order(mask: Mask, geometry: Geometry) -> Mask:
    """The mask on that grid, with its slices reversed when that makes the grids one.

    A NIfTI file may count its slices against the normal of their planes; a DICOM series never does.

    Raises:
        GeometryMismatch: the grids differ in more than the order of slices.
    """
    if mask.geometry.is_close(geometry):
        return Mask(mask.array, geometry, mask.schema)
    turned = reversed_slices(mask.geometry)
    if not turned.is_close(geometry):
        geometry.require_same(mask.geometry, "the mask")
    return Mask(mask.array[::-1], geometry, mask.schema)


def reversed_slices(geometry: Geometry) -> Geometry:
    """The same voxels counted from the last slice to the first."""
    affine = geometry.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (geometry.shape[0] - 1)
    affine[:3, 0] *= -1
    return Geometry(geometry.shape, affine)


def _require_image(dataset: Dataset) -> None:
    require_grey(dataset)
    if "LOCALIZER" in (dataset.get("ImageType") or ()):
        raise InconsistentSeries(f"{name_of(dataset)} is a localizer; a volume has none")
    missing = [keyword for keyword in (*PLANE, *IDENTITY) if dataset.get(keyword) in (None, "")]
    if missing:
        raise InconsistentSeries(f"{name_of(dataset)} lacks {', '.join(missing)}")


def _the_only(datasets: Sequence[Dataset], keyword: str) -> str:
    """The value that all instances share."""
    return _shared(datasets, keyword, lambda dataset: str(dataset.get(keyword)))


def _shared(datasets: Sequence[Dataset], what: str, value: Callable[[Dataset], str]) -> str:
    found = sorted({value(dataset) for dataset in datasets})
    if len(found) > 1:
        raise InconsistentSeries(f"all instances must share one {what}, got {len(found)}: {'; '.join(found[:4])}")
    return found[0]


def _sorted(datasets: Sequence[Dataset]) -> tuple[list[Dataset], FloatArray]:
    """Instances along the normal, and the positions (S, 3) of their first voxels in LPS mm."""
    _shared(datasets, "size", lambda dataset: f"{dataset.Rows}x{dataset.Columns}")
    _shared(datasets, "PixelSpacing", lambda dataset: " x ".join(f"{float(s):.5f}" for s in dataset.PixelSpacing))
    row, column = _directions(datasets)
    positions_mm = np.array([_numbers(dataset, "ImagePositionPatient", 3) for dataset in datasets])
    order = np.argsort(positions_mm @ np.cross(row, column), kind="stable")
    return [datasets[index] for index in order], positions_mm[order]


def _directions(datasets: Sequence[Dataset]) -> tuple[FloatArray, FloatArray]:
    """Unit vectors along a row and down a column, the same for all instances."""
    found = np.array([_numbers(dataset, "ImageOrientationPatient", 6) for dataset in datasets])
    spread = float(np.abs(found - found[0]).max())
    if spread > DIRECTION_TOLERANCE:
        raise InconsistentSeries(
            f"direction cosines of all instances must agree within {DIRECTION_TOLERANCE}, they differ by up to "
            f"{spread:.4f}; does the series hold several orientations?"
        )
    row, column = found[0, :3], found[0, 3:]
    skew = max(abs(float(row @ column)), abs(float(row @ row) - 1), abs(float(column @ column) - 1))
    if skew > UNIT_TOLERANCE:
        raise InconsistentSeries(
            f"ImageOrientationPatient must be two orthogonal unit vectors, got {found[0].tolist()}"
        )
    return row / np.linalg.norm(row), column / np.linalg.norm(column)


def _numbers(dataset: Dataset, keyword: str, count: int) -> FloatArray:
    values = np.array([float(value) for value in dataset[keyword].value or ()])
    if values.shape != (count,) or not np.isfinite(values).all():
        raise InconsistentSeries(f"{keyword} of {name_of(dataset)} must be {count} numbers, got {values.tolist()}")
    return values


def _grid(ordered: Sequence[Dataset], positions_mm: FloatArray) -> tuple[Geometry, list[str]]:
    """The even grid through the first and the last slice, with remarks."""
    row, column = _directions(ordered)
    normal = np.cross(row, column)
    row_gap_mm, column_gap_mm = _numbers(ordered[0], "PixelSpacing", 2)
    if min(row_gap_mm, column_gap_mm) <= 0:
        raise InconsistentSeries(f"PixelSpacing must be positive, got {row_gap_mm} x {column_gap_mm} mm")
    step_mm, findings = _slice_step(ordered, positions_mm, normal)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = step_mm, column * row_gap_mm, row * column_gap_mm
    affine[:3, 3] = positions_mm[0]
    return Geometry((len(ordered), int(ordered[0].Rows), int(ordered[0].Columns)), affine), findings


def _slice_step(
    ordered: Sequence[Dataset], positions_mm: FloatArray, normal: FloatArray
) -> tuple[FloatArray, list[str]]:
    """The vector from slice to slice in mm."""
    if len(ordered) == 1:
        thickness_mm = float(ordered[0].get("SliceThickness") or 0.0)
        if thickness_mm <= 0:
            raise InconsistentSeries("a single slice needs a SliceThickness to be a volume; there are too few slices")
        return normal * thickness_mm, [f"a single slice, taken as {thickness_mm:g} mm thick"]
    gaps_mm = np.diff(positions_mm @ normal)
    _require_distinct(ordered, gaps_mm)
    _require_upright(positions_mm, normal)
    median_mm = float(np.median(gaps_mm))
    jitter_mm = float(np.abs(gaps_mm - median_mm).max())
    allowed_mm = max(GAP_TOLERANCE * median_mm, GAP_FLOOR_MM)
    if jitter_mm > allowed_mm:
        worst = int(np.abs(gaps_mm - median_mm).argmax())
        raise InconsistentSeries(
            f"slice gaps must agree within {allowed_mm:.3f} mm of {median_mm:.3f} mm, got {gaps_mm[worst]:.3f} mm "
            f"between slices {worst + 1} and {worst + 2} of {len(ordered)}; is a slice missing?"
        )
    step_mm = (positions_mm[-1] - positions_mm[0]) / (len(ordered) - 1)
    even_mm = positions_mm[0] + np.arange(len(ordered))[:, None] * step_mm
    drift_mm = float(np.linalg.norm(positions_mm - even_mm, axis=1).max())
    if drift_mm > DRIFT_TOLERANCE_MM:
        raise InconsistentSeries(
            f"slices must lie within {DRIFT_TOLERANCE_MM} mm of an even grid, got {drift_mm:.3f} mm; "
            "does the gap change along the series?"
        )
    return step_mm, [f"slice gaps vary by {jitter_mm:.3f} mm"] if jitter_mm > DUPLICATE_MM else []


def _require_distinct(ordered: Sequence[Dataset], gaps_mm: npt.NDArray[np.float64]) -> None:
    doubled = np.flatnonzero(gaps_mm < DUPLICATE_MM)
    if doubled.size:
        first = int(doubled[0])
        raise InconsistentSeries(
            f"each position may hold one slice, got {doubled.size} doubled, first {name_of(ordered[first])} and "
            f"{name_of(ordered[first + 1])}; does the series hold several phases or echoes?"
        )


def _require_upright(positions_mm: FloatArray, normal: FloatArray) -> None:
    """Slices must be stacked along their normal; a tilted gantry shears the stack."""
    offsets_mm = positions_mm - positions_mm[0]
    along_mm = offsets_mm @ normal
    aside_mm = np.linalg.norm(offsets_mm - along_mm[:, None] * normal, axis=1)
    worst = int(aside_mm.argmax())
    if aside_mm[worst] > DRIFT_TOLERANCE_MM:
        tilt_deg = float(np.degrees(np.arctan2(aside_mm[worst], along_mm[worst])))
        raise InconsistentSeries(
            f"slices must be stacked along their normal within {DRIFT_TOLERANCE_MM} mm, got {aside_mm[worst]:.2f} mm "
            f"aside (a gantry tilt of {tilt_deg:.1f} degrees); resample the series first"
        )


def _slice(dataset: Dataset, geometry: Geometry) -> npt.NDArray[np.float32]:
    values = slice_values(dataset)
    if values.shape != geometry.shape[1:]:
        raise InconsistentSeries(f"{name_of(dataset)} must decode to {geometry.shape[1:]} pixels, got {values.shape}")
    return values


def _remarks(ordered: Sequence[Dataset]) -> list[str]:
    remarks = []
    if ordered[0].Modality == "CT" and any(dataset.get("RescaleSlope") in (None, "") for dataset in ordered):
        remarks.append("CT without rescale: stored values are taken as HU")
    if any(dataset.PhotometricInterpretation == "MONOCHROME1" for dataset in ordered):
        remarks.append("MONOCHROME1: dark means large values in viewers")
    return remarks
