"""The grid of a volume: shape and affine from array indices to patient millimetres.

Arrays are indexed (slice, row, column); affines map those indices to LPS millimetres.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lib.core.errors import GeometryMismatch, InvalidVolume

GEOMETRY_TOLERANCE_MM = 0.01
"""Two grids are one when no voxel centre differs by more than this."""

MIN_DETERMINANT = 1e-9

Shape = tuple[int, int, int]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """A grid of voxels in the patient's space.

    Attributes:
        shape: numbers of (slices, rows, columns).
        affine: (4, 4) float64, (slice, row, column, 1) -> (x, y, z, 1) in LPS mm; read-only.

    Raises:
        InvalidVolume: a shape that is not three positive numbers, an affine that is not an
            invertible (4, 4) matrix with the last row 0 0 0 1.
    """

    shape: Shape
    affine: FloatArray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise InvalidVolume(f"a grid needs 3 positive sizes (slices, rows, columns), got {self.shape}")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise InvalidVolume(f"an affine is a finite (4, 4) matrix, got shape {affine.shape}: {affine.tolist()}")
        if not np.allclose(affine[3], (0, 0, 0, 1)) or abs(np.linalg.det(affine[:3, :3])) < MIN_DETERMINANT:
            raise InvalidVolume(f"an affine must be invertible with the last row 0 0 0 1, got {affine.tolist()}")
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def from_spacing(
        cls,
        shape: Shape,
        spacing_mm: tuple[float, float, float],
        origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> "Geometry":
        """An axial grid: slices along +z, rows along +y, columns along +x of LPS.

        Args:
            shape: numbers of (slices, rows, columns).
            spacing_mm: distances between neighbouring (slices, rows, columns).
            origin_mm: (x, y, z) of the first voxel's centre in LPS.
        """
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 1], affine[0, 2] = spacing_mm
        affine[:3, 3] = origin_mm
        affine[3, 3] = 1.0
        return cls(shape, affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distances between neighbouring (slices, rows, columns) in mm."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in cubic millimetres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def to_lps(self, indices: npt.ArrayLike) -> FloatArray:
        """Patient positions in mm, (..., 3) as (x, y, z), of indices (..., 3) as (slice, row, column)."""
        return np.asarray(np.asarray(indices, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3])

    def to_index(self, positions_mm: npt.ArrayLike) -> FloatArray:
        """Fractional indices (..., 3) of LPS positions (..., 3) in mm."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(np.asarray(positions_mm, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3])

    def corners_mm(self) -> FloatArray:
        """LPS positions (8, 3) of the outermost voxel centres."""
        last = np.array(self.shape) - 1
        picks = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        return self.to_lps(picks * last)

    def is_close(self, other: "Geometry", tolerance_mm: float = GEOMETRY_TOLERANCE_MM) -> bool:
        """Whether both grids have one shape and no voxel centre differs by more than the tolerance.

        Single-slice grids are also compared one step along each axis, so that their spacing counts.
        """
        if self.shape != other.shape:
            return False
        step = np.eye(3)
        gap = np.abs(self.corners_mm() - other.corners_mm()).max()
        step_gap = np.abs(self.to_lps(step) - other.to_lps(step)).max()
        return bool(max(gap, step_gap) <= tolerance_mm)

    def require_same(self, other: "Geometry", what: str) -> None:
        """Raise GeometryMismatch with both grids unless `other` is this grid.

        Args:
            other: the grid that came.
            what: names the thing that came, for the message.
        """
        if not self.is_close(other):
            raise GeometryMismatch(f"{what} must lie on the grid {self.describe()}, got {other.describe()}")

    def describe(self) -> str:
        """Shape, spacing and origin in one line, for messages."""
        spacing = " x ".join(f"{s:.3f}" for s in self.spacing_mm)
        origin = ", ".join(f"{x:.2f}" for x in self.affine[:3, 3])
        return f"{'x'.join(map(str, self.shape))} at {spacing} mm from ({origin}) mm"
