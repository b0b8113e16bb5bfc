"""What a planner must know of images and labels: sizes, spacings, intensities, how often each label occurs.

Cases are read one after the other and none is kept; of each one a few thousand intensities are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lib.core.errors import GeometryMismatch, InvalidInput, InvalidMask
from lib.core.geometry import Geometry
from lib.core.labels import BACKGROUND, MAX_LABEL_ID
from lib.workflows.userfiles import Pair, pairs_of

if TYPE_CHECKING:
    from lib.core.values import Volume

PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.5)
SAMPLES_PER_CASE = 4000
"""Labelled voxels of a case whose intensities are kept; every case counts the same."""

Numbers = tuple[float, float, float]
Counts = npt.NDArray[np.int64]
Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Occurrence:
    """How often a label occurs: in how many cases, and in how many voxels of all of them."""

    cases: int
    voxels: int


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Figures of a set of labelled images; axes are (slices, rows, columns) in the reading direction of the networks.

    Attributes:
        sizes: of each case, in voxels.
        spacings_mm: of each case.
        intensities: of labelled voxels, at each of `PERCENTILES`.
        lowest: lowest intensity of each case.
        voxels: of all cases.
        labels: by label id; ids that occur nowhere are missing.
    """

    sizes: tuple[tuple[int, int, int], ...]
    spacings_mm: tuple[Numbers, ...]
    intensities: tuple[float, ...]
    lowest: tuple[float, ...]
    voxels: int
    labels: Mapping[int, Occurrence]

    @property
    def cases(self) -> int:
        """Number of cases."""
        return len(self.sizes)

    @property
    def median_spacing_mm(self) -> Numbers:
        """Of each axis for itself."""
        return _three(np.median(self.spacings_mm, axis=0))

    def median_size(self, spacing_mm: Sequence[float]) -> Numbers:
        """Median size in voxels, each axis for itself, once all cases have that spacing."""
        extents_mm = np.asarray(self.sizes) * np.asarray(self.spacings_mm)
        return _three(np.median(np.maximum(1, extents_mm / np.asarray(spacing_mm)), axis=0))

    def spacing_percentile_mm(self, percent: float) -> Numbers:
        """A percentile of the spacing, each axis for itself."""
        return _three(np.percentile(self.spacings_mm, percent, axis=0))


def read_fingerprint(images: Path, labels: Path, known: Sequence[int], report: Report) -> Fingerprint:
    """Read every case of two folders once.

    Args:
        images: folder of NIfTI images.
        labels: folder of NIfTI labels with the same file names.
        known: label ids that may occur; none = any from 1 to 255.
        report: called with the share done and the case.

    Raises:
        InvalidInput: files that do not pair or cannot be read, NaN, two grids, unknown labels, no labelled voxel; names
            the file.
    """
    found: list[_CaseFigures] = []
    pairs = pairs_of(images, labels)
    for number, pair in enumerate(pairs):
        report(number / len(pairs), pair.name)
        found.append(_figures(pair, known))
    report(1.0, "done")
    counts = np.stack([case.counts for case in found])
    samples = [case.samples for case in found if case.samples.size]
    if not samples:
        raise InvalidInput(f"the labels in {labels} must hold at least one labelled voxel, all {len(pairs)} are empty")
    return Fingerprint(
        sizes=tuple(case.size for case in found),
        spacings_mm=tuple(case.spacing_mm for case in found),
        intensities=tuple(float(p) for p in np.percentile(np.concatenate(samples), PERCENTILES)),
        lowest=tuple(case.lowest for case in found),
        voxels=int(counts.sum()),
        labels={
            number: Occurrence(int((counts[:, number] > 0).sum()), int(counts[:, number].sum()))
            for number in range(1, MAX_LABEL_ID + 1)
            if counts[:, number].any()
        },
    )


@dataclass(frozen=True, slots=True, eq=False)
class _CaseFigures:
    """What is kept of one case: counts (256,) of the voxels of each label id, intensities (n,) of labelled voxels."""

    size: tuple[int, int, int]
    spacing_mm: Numbers
    lowest: float
    counts: Counts
    samples: npt.NDArray[np.float32]


def _figures(pair: Pair, known: Sequence[int]) -> _CaseFigures:
    from lib.dicom.nifti import read_volume

    volume, label = read_volume(pair.image), read_volume(pair.label)
    try:
        volume.geometry.require_same(label.geometry, "the label")
    except GeometryMismatch as error:
        raise InvalidInput(f"{pair.label}: {error}") from error
    ids = _label_ids(label, pair.label, known)
    labelled = volume.array[ids > BACKGROUND]
    size, spacing_mm = _as_read(volume.geometry)
    return _CaseFigures(
        size=size,
        spacing_mm=spacing_mm,
        lowest=float(volume.array.min()),
        counts=np.bincount(ids.reshape(-1), minlength=MAX_LABEL_ID + 1),
        samples=labelled[:: max(1, -(-labelled.size // SAMPLES_PER_CASE))].copy(),
    )


def _label_ids(label: "Volume", path: Path, known: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Label ids (S, R, C) of a label image."""
    values = np.unique(label.array)
    allowed = np.array([BACKGROUND, *(known or range(1, MAX_LABEL_ID + 1))])
    odd = values[~np.isin(values, allowed)]
    if odd.size:
        wanted = f"among the named ones {list(known)}" if known else f"whole numbers up to {MAX_LABEL_ID}"
        came = ", ".join(f"{value:g}" for value in odd[:5])
        raise InvalidMask(f"{path}: label ids must be 0 or {wanted}, got {came}")
    return label.array.astype(np.uint8)


def _as_read(geometry: Geometry) -> tuple[tuple[int, int, int], Numbers]:
    """Size and spacing in the reading direction of the networks."""
    from lib.inference.orientation import Orientation

    (slices, rows, columns), (slice_mm, row_mm, column_mm) = geometry.shape, geometry.spacing_mm
    if Orientation.of(geometry).transposed:
        return (slices, columns, rows), (slice_mm, column_mm, row_mm)
    return (slices, rows, columns), (slice_mm, row_mm, column_mm)


def _three(values: npt.NDArray[np.float64]) -> Numbers:
    slices, rows, columns = (float(value) for value in values)
    return slices, rows, columns
