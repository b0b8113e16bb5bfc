"""Overlap and surface distance of two masks: Dice, HD95, NSD; and how far probabilities can be believed.

Conventions: a label that is empty in both masks has no value (None) and leaves every mean. A label
that is empty in one of them has Dice 0, NSD 0 and an infinite HD95.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lib.core.values import Mask

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
DEFAULT_TOLERANCE_MM = 1.0
CALIBRATION_BINS = 15


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """Agreement of one label in two masks.

    Attributes:
        dice: 2|A n B| / (|A| + |B|), in [0, 1].
        hd95_mm: the larger of both directed 95th percentiles of surface distance.
        nsd: share of both surfaces within the tolerance of the other one, in [0, 1]
            (normalised surface Dice, Nikolov et al., arXiv:1809.04430, on boundary voxels).
    """

    dice: float
    hd95_mm: float
    nsd: float


def dice(reference: BoolArray, predicted: BoolArray) -> float | None:
    """Dice of two boolean arrays of one shape, or None when both are empty."""
    total = int(reference.sum()) + int(predicted.sum())
    return None if total == 0 else 2.0 * int((reference & predicted).sum()) / total


def boundary(region: BoolArray) -> BoolArray:
    """Voxels of the region with a face neighbour outside it; the array's edge counts as outside."""
    return np.asarray(region & ~ndimage.binary_erosion(region))


def surface_distances_mm(
    source: BoolArray, target: BoolArray, spacing_mm: tuple[float, float, float]
) -> npt.NDArray[np.float64]:
    """Distance in mm from each boundary voxel of `source` to the nearest boundary voxel of `target`.

    Both regions must not be empty.
    """
    to_target = ndimage.distance_transform_edt(~boundary(target), sampling=spacing_mm)
    return np.asarray(to_target)[boundary(source)]


def label_metrics(
    reference: BoolArray,
    predicted: BoolArray,
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> LabelMetrics | None:
    """Dice, HD95 and NSD of one region (S, R, C), or None when both are empty."""
    overlap = dice(reference, predicted)
    if overlap is None:
        return None
    if not reference.any() or not predicted.any():
        return LabelMetrics(dice=0.0, hd95_mm=float("inf"), nsd=0.0)
    reference, predicted = _cropped(reference, predicted)
    there = surface_distances_mm(reference, predicted, spacing_mm)
    back = surface_distances_mm(predicted, reference, spacing_mm)
    within = int((there <= tolerance_mm).sum()) + int((back <= tolerance_mm).sum())
    hd95_mm = max(float(np.percentile(there, 95)), float(np.percentile(back, 95)))
    return LabelMetrics(dice=overlap, hd95_mm=hd95_mm, nsd=within / (there.size + back.size))


def evaluate(
    reference: Mask, predicted: Mask, tolerance_mm: float = DEFAULT_TOLERANCE_MM
) -> dict[str, LabelMetrics | None]:
    """Metrics of each label by name.

    Raises:
        GeometryMismatch: the masks lie on different grids.
    """
    reference.geometry.require_same(predicted.geometry, "the predicted mask")
    spacing_mm = reference.geometry.spacing_mm
    return {
        label.name: label_metrics(reference.array == label.id, predicted.array == label.id, spacing_mm, tolerance_mm)
        for label in reference.schema
    }


def mean_dice(by_label: Mapping[str, float | None]) -> float | None:
    """Mean over the labels that have a value, or None when none has."""
    values = [value for value in by_label.values() if value is not None]
    return float(np.mean(values)) if values else None


def calibration_histogram(confidence: npt.NDArray[np.float32], hits: BoolArray) -> FloatArray:
    """Voxels by confidence, as (bins, 3): their number, the sum of their confidence, how many are right.

    Histograms add up: one of a volume is the sum of those of its parts.

    Args:
        confidence: probability of the predicted class, any shape, in [0, 1]; bin m holds (m / 15, (m + 1) / 15].
        hits: whether the predicted class is the true one, of the same shape.
    """
    values = confidence.reshape(-1).astype(np.float64)
    bins = np.clip(np.ceil(values * CALIBRATION_BINS).astype(np.intp) - 1, 0, CALIBRATION_BINS - 1)
    columns = (None, values, hits.reshape(-1).astype(np.float64))
    return np.stack([np.bincount(bins, column, CALIBRATION_BINS) for column in columns], axis=1).astype(np.float64)


def expected_calibration_error(histogram: FloatArray) -> float | None:
    """Mean over all voxels of |accuracy - confidence| of their bin, in [0, 1]; None without voxels.

    Guo et al., "On calibration of modern neural networks", ICML 2017 (arXiv:1706.04599), eq. 5.

    Args:
        histogram: as `calibration_histogram` returns it.
    """
    count, confidence, hits = histogram.T
    return float(np.abs(hits - confidence).sum() / count.sum()) if count.sum() else None


def _cropped(first: BoolArray, second: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Both arrays cut to their common bounding box, one voxel wider: distances stay, time falls."""
    box = ndimage.find_objects((first | second).astype(np.uint8))[0]
    grown = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
    return first[grown], second[grown]
