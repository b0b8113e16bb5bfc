"""One reading direction for every volume, whatever way its file stores it.

A network that learned on NIfTI files, whose rows may run to the front, must see the same picture in a DICOM series,
whose rows run to the back. The slice axis stays: volumes are never cut in another plane.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lib.core.geometry import Geometry

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Orientation:
    """How to read an array (S, R, C) so that its indices grow towards left, back and head as far as they can.

    Attributes:
        transposed: rows and columns are swapped first.
        flips: whether (slices, rows, columns) are then reversed.
    """

    transposed: bool
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, geometry: Geometry) -> "Orientation":
        """The orientation that puts columns on the earlier and rows on the later patient axis, all growing.

        Axial slices come out with rows to the back and columns to the left, coronal ones with rows to the head and
        columns to the left, sagittal ones with rows to the head and columns to the back.
        """
        directions = geometry.affine[:3, :3] / np.asarray(geometry.spacing_mm)  # columns: slice, row, column; LPS rows
        through = int(np.abs(directions[:, 0]).argmax())
        early, late = (axis for axis in range(3) if axis != through)
        kept = abs(directions[late, 1] * directions[early, 2])
        swapped = abs(directions[early, 1] * directions[late, 2])
        rows, columns = (2, 1) if swapped > kept else (1, 2)
        return cls(
            transposed=bool(swapped > kept),
            flips=(
                bool(directions[through, 0] < 0),
                bool(directions[late, rows] < 0),
                bool(directions[early, columns] < 0),
            ),
        )

    def view(self, array: npt.NDArray[T]) -> npt.NDArray[T]:
        """The array (S, R, C) in this reading direction, without a copy: writing to the view writes to the array."""
        turned = array.swapaxes(1, 2) if self.transposed else array
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return turned[steps]

    def stored(self, maps: npt.NDArray[T]) -> npt.NDArray[T]:
        """The way back: maps (S, ..., R, C) in this reading direction as the volume stores them, without a copy."""
        slices, rows, columns = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        turned = maps[slices, ..., rows, columns]
        return turned.swapaxes(-1, -2) if self.transposed else turned
