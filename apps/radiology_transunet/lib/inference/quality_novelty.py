"""Whether something is like what was seen: its distance to the nearest point of another patient."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.inference.quality_conformal import bound

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
DIGITS = 5
"""Of coordinates on the disk."""
LEAST_SCALE = 1e-6
AT_ONCE = 256
"""Points whose distances to all others are in memory together."""


@dataclass(frozen=True, slots=True, eq=False)
class Neighbourhood:
    """Points that were seen, and how far from each other those of different patients lie.

    Attributes:
        centre: (d,) mean of the points.
        scale: (d,) standard deviation, 1 for a coordinate that does not vary.
        points: (n, d) in standard deviations from the centre.
        reach: distance to the nearest point up to which a new one counts as familiar; NaN where nobody can know it.
    """

    centre: FloatArray
    scale: FloatArray
    points: FloatArray
    reach: float

    @classmethod
    def of(cls, points: FloatArray, patients: IntArray, level: float) -> "Neighbourhood":
        """Where points (n, d) of patients (n,) lie; a share `level` of new patients' points is to be within reach.

        With too few patients for that level the reach is the largest distance that occurs.
        """
        if not len(points):
            nothing = np.zeros(points.shape[1])
            return cls(nothing, nothing + 1, points, float("nan"))
        spread = points.std(axis=0)
        centre, scale = points.mean(axis=0), np.where(spread > LEAST_SCALE, spread, 1.0)
        placed = np.round((points - centre) / scale, DIGITS)
        if len(np.unique(patients)) < 2:
            return cls(centre, scale, placed, float("nan"))
        distances = _to_others(placed, patients)
        reach = bound(distances, patients, level)
        return cls(centre, scale, placed, reach if isfinite(reach) else float(distances.max()))

    def includes(self, point: FloatArray) -> bool:
        """Whether a point (d,) is within reach; NaN coordinates, and those of another width, are not."""
        if point.shape != self.centre.shape or not np.isfinite(point).all() or not len(self.points):
            return False
        placed = (point - self.centre) / self.scale
        return bool(np.linalg.norm(self.points - placed, axis=1).min() <= self.reach)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; an unknown reach is None."""
        arrays = {name: getattr(self, name).tolist() for name in ("centre", "scale", "points")}
        return {**arrays, "reach": self.reach if isfinite(self.reach) else None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Neighbourhood":
        """The neighbourhood of such values.

        Raises:
            ValueError, KeyError, TypeError: they are no such values.
        """
        centre, scale = (np.array(values[name], dtype=np.float64) for name in ("centre", "scale"))
        points = np.array(values["points"], dtype=np.float64).reshape(-1, len(centre))
        if centre.ndim != 1 or scale.shape != centre.shape or not all(map(_all_finite, (centre, scale, points))):
            raise ValueError(f"a neighbourhood needs finite points like its centre, got {points.shape}")
        return cls(centre, scale, points, float("nan") if values["reach"] is None else float(values["reach"]))


def _all_finite(array: FloatArray) -> bool:
    return bool(np.isfinite(array).all())


def _to_others(points: FloatArray, patients: IntArray) -> FloatArray:
    """Distance (n,) of each point to the nearest one of another patient."""
    found = np.empty(len(points))
    squares = (points**2).sum(axis=1)
    for first in range(0, len(points), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        distances = squares[some, None] + squares[None] - 2 * points[some] @ points.T
        distances[patients[some, None] == patients[None]] = np.inf
        found[some] = np.sqrt(np.maximum(distances.min(axis=1), 0.0))
    return found
