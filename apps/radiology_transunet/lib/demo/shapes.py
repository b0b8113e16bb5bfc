"""Implicit shapes in patient millimetres: negative inside, about the distance to the surface near it.

Positions are (x, y, z) in the patient's own LPS axes: +x left, +y posterior, +z superior.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Region = tuple[slice, slice, slice]
Point = tuple[float, float, float]

WARP_MARGIN_MM = 26.0
"""How far tilt and warp may move a point away from the grid position that a box is cut by."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Where each voxel lies in the patient.

    Attributes:
        x: (S, R, C) mm, grows to the patient's left.
        y: (S, R, C) mm, grows to the back.
        z: (S, R, C) mm, grows to the head.
    """

    x: Array
    y: Array
    z: Array

    def __getitem__(self, region: Region) -> "Points":
        return Points(self.x[region], self.y[region], self.z[region])

    def region(self, low: Point, high: Point) -> Region:
        """The block of voxels that holds the box from `low` to `high`, with a margin for the warp."""
        middle = tuple(n // 2 for n in self.x.shape)
        axes = (
            (self.z[:, middle[1], middle[2]], low[2], high[2]),
            (self.y[middle[0], :, middle[2]], low[1], high[1]),
            (self.x[middle[0], middle[1], :], low[0], high[0]),
        )
        first, second, third = (_span(values, a - WARP_MARGIN_MM, b + WARP_MARGIN_MM) for values, a, b in axes)
        return first, second, third


class Shape(Protocol):
    """Something with an inside."""

    def distance_mm(self, points: Points) -> Array:
        """(S, R, C) mm, negative inside."""

    def box(self) -> tuple[Point, Point]:
        """Lower and upper corner of a box around it, in mm."""


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """An ellipsoid whose axis may lean.

    Attributes:
        center: (x, y, z) mm.
        radii: (x, y, z) mm.
        lean: mm of shift in x and in y for each mm of z above the centre.
    """

    center: Point
    radii: Point
    lean: tuple[float, float] = (0.0, 0.0)

    def distance_mm(self, points: Points) -> Array:
        """First-order distance to the surface (S, R, C)."""
        dz = points.z - self.center[2]
        dx = points.x - self.center[0] - self.lean[0] * dz
        dy = points.y - self.center[1] - self.lean[1] * dz
        squares = [np.square(d / r) for d, r in zip((dx, dy, dz), self.radii, strict=True)]
        size = np.sqrt(sum(squares))
        gradient = np.sqrt(sum(s / (r * r) for s, r in zip(squares, self.radii, strict=True)))
        return np.asarray(size * (size - 1.0) / np.maximum(gradient, 1e-6), dtype=np.float32)

    def box(self) -> tuple[Point, Point]:
        """Lower and upper corner in mm."""
        reach = (
            self.radii[0] + abs(self.lean[0]) * self.radii[2],
            self.radii[1] + abs(self.lean[1]) * self.radii[2],
            self.radii[2],
        )
        return _corner(self.center, reach, -1), _corner(self.center, reach, 1)


@dataclass(frozen=True, slots=True)
class Tube:
    """A chain of capsules.

    Attributes:
        path: its axis, two or more points (x, y, z) in mm.
        radii: mm at each point of the path.
    """

    path: tuple[Point, ...]
    radii: tuple[float, ...]

    def distance_mm(self, points: Points) -> Array:
        """Distance to the nearest capsule (S, R, C)."""
        nearest = np.full(points.x.shape, np.inf, dtype=np.float32)
        for k in range(len(self.path) - 1):
            np.minimum(nearest, self._capsule(points, k), out=nearest)
        return nearest

    def _capsule(self, points: Points, k: int) -> Array:
        """Distance to the part from point k to point k + 1."""
        start = np.array(self.path[k], dtype=np.float32)
        along = np.array(self.path[k + 1], dtype=np.float32) - start
        dx, dy, dz = points.x - start[0], points.y - start[1], points.z - start[2]
        share = np.clip((dx * along[0] + dy * along[1] + dz * along[2]) / np.float32(along @ along), 0, 1)
        radius = self.radii[k] + share * (self.radii[k + 1] - self.radii[k])
        away = np.square(dx - share * along[0]) + np.square(dy - share * along[1]) + np.square(dz - share * along[2])
        return np.asarray(np.sqrt(away) - radius, dtype=np.float32)

    def box(self) -> tuple[Point, Point]:
        """Lower and upper corner in mm."""
        low, high = np.min(self.path, axis=0) - max(self.radii), np.max(self.path, axis=0) + max(self.radii)
        return (float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2]))


def blend(first: Array, second: Array, width_mm: float) -> Array:
    """Union of two distances whose crease is rounded over about `width_mm`."""
    overlap = np.maximum(width_mm - np.abs(first - second), 0) / width_mm
    return np.asarray(np.minimum(first, second) - overlap * overlap * (width_mm / 4), dtype=np.float32)


def rounded_ellipse_mm(x: Array, y: Array, half_width_mm: float, half_depth_mm: float) -> Array:
    """Distance to the curve |x/a|^2.5 + |y/b|^2.5 = 1, the outline of a trunk."""
    u, v = np.abs(x) / half_width_mm, np.abs(y) / half_depth_mm
    u_root, v_root = u * np.sqrt(u), v * np.sqrt(v)  # powers of 1.5
    size = np.maximum((u * u_root + v * v_root), 1e-6) ** 0.4
    steepness = np.hypot(u_root / half_width_mm, v_root / half_depth_mm) / np.maximum(size, 1e-3) ** 1.5
    return np.asarray((size - 1.0) / np.maximum(steepness, 1e-5), dtype=np.float32)


def smooth_field(rng: np.random.Generator, shape: tuple[int, int, int], knots: tuple[int, int, int]) -> Array:
    """A smooth random field (S, R, C) of mean 0 and deviation 1.

    Args:
        rng: where the numbers come from.
        shape: voxels along each axis.
        knots: independent values along each axis; fewer means smoother.
    """
    field = rng.standard_normal(knots, dtype=np.float32)
    for axis, (size, count) in enumerate(zip(shape, knots, strict=True)):
        field = np.moveaxis(np.tensordot(_basis(size, count), field, axes=(1, axis)), 0, axis)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), dtype=np.float32)


def _basis(size: int, knots: int) -> Array:
    """(size, knots) weights of Gaussian bumps around evenly spaced knots; each row sums to 1."""
    positions = np.linspace(0, knots - 1, size, dtype=np.float32)[:, None]
    weights = np.exp(-1.6 * np.square(positions - np.arange(knots, dtype=np.float32)))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _span(values: Array, low: float, high: float) -> slice:
    """The indices whose values lie between both bounds; one voxel at least, `values` grow."""
    first, last = int(np.searchsorted(values, low)), int(np.searchsorted(values, high))
    first = min(first, len(values) - 1)
    return slice(first, max(last, first + 1))


def _corner(center: Point, reach: Point, sign: int) -> Point:
    return center[0] + sign * reach[0], center[1] + sign * reach[1], center[2] + sign * reach[2]
