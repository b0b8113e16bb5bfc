"""Overlapping patches over a volume, and their class maps blended into one.

Weights are Gaussian with a deviation of an eighth of the patch, as in nnU-Net (Isensee et al., Nature Methods 2021).
Corners form a grid, so the sum of all weights at a voxel is a product of one sum an axis. Each axis is normalised by
its own sum: the weights of all windows sum to one at every voxel, at the borders too, and no map of weights is held
but those of the windows that are classified together.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.core.errors import InvalidVolume
from lib.inference.preprocess import FloatPlanes, Size3

SIGMA_SHARE = 1 / 8
"""Deviation of the weights as a share of the patch's side."""
ROUNDING = 1e-6
"""Of floats, in voxels."""

Corners = tuple[int, ...]
Weights = npt.NDArray[np.float32]


def corners(side: int, patch: int, overlap: float) -> Corners:
    """Where windows of `patch` voxels begin on an axis of `side` voxels: evenly, from one end to the other.

    Neighbours share at least `overlap` of the patch, up to the fraction of a voxel.

    Raises:
        InvalidVolume: an axis shorter than the patch.
    """
    if side < patch:
        raise InvalidVolume(f"an axis must have at least the {patch} voxels of the patch, got {side}; pad it first")
    step = max(1, int(patch * (1 - overlap) + ROUNDING))  # 10 * (1 - 0.8) is a little less than 2
    gaps = -(-(side - patch) // step)
    return tuple((side - patch) * number // max(gaps, 1) for number in range(gaps + 1))


def axis_weights(starts: Corners, patch: int) -> Weights:
    """(windows, patch) float32: of each window along one axis; they sum to 1 over the windows at every voxel."""
    offsets = np.arange(patch) - (patch - 1) / 2
    bell = np.exp(-0.5 * (offsets / (SIGMA_SHARE * patch)) ** 2)
    total = np.zeros(starts[-1] + patch)
    for start in starts:
        total[start : start + patch] += bell
    return np.asarray([bell / total[start : start + patch] for start in starts], dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """The grid of windows over a volume.

    Attributes:
        size: (slices, rows, columns) of the volume.
        patch: of a window.
        starts: of the windows along (slices, rows, columns).
        weights: along each axis, (windows, patch).
    """

    size: Size3
    patch: Size3
    starts: tuple[Corners, Corners, Corners]
    weights: tuple[Weights, Weights, Weights]

    @classmethod
    def over(cls, size: Size3, patch: Size3, overlap: float) -> "Windows":
        """Windows that cover the volume."""
        slices, rows, columns = (corners(s, p, overlap) for s, p in zip(size, patch, strict=True))
        along = [axis_weights(starts, side) for starts, side in zip((slices, rows, columns), patch, strict=True)]
        return cls(size, patch, (slices, rows, columns), (along[0], along[1], along[2]))

    def __len__(self) -> int:
        slices, rows, columns = self.starts
        return len(slices) * len(rows) * len(columns)

    def across(self, level: int) -> list["Window"]:
        """The windows of one position along the slices."""
        _, height, width = self.patch
        depths, rows, columns = (torch.from_numpy(w) for w in self.weights)
        return [
            Window((slice(row, row + height), slice(column, column + width)), (depths[level], rows[r], columns[c]))
            for r, row in enumerate(self.starts[1])
            for c, column in enumerate(self.starts[2])
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One window: the (rows, columns) of its planes, and its weights along each axis."""

    place: tuple[slice, slice]
    along: tuple[Tensor, Tensor, Tensor]

    def weight(self) -> Tensor:
        """Of each voxel, (slices, rows, columns); made when it is used, for there may be a thousand windows."""
        slices, rows, columns = self.along
        return slices[:, None, None] * rows[:, None] * columns


def blend(
    planes: FloatPlanes, windows: Windows, batch: int, classify: Callable[[FloatPlanes, Tensor], Tensor]
) -> Iterator[Tensor]:
    """Class maps of a volume, from its first planes to its last.

    Windows run along the slices; planes that no later window touches leave at once, so maps of all classes exist for as
    many planes as a patch has, whatever the length of the volume.

    Args:
        planes: (S, H, W).
        windows: over them.
        batch: windows that are classified at once.
        classify: patches (B, 1, *patch), and their weights (B, *patch), to class maps (B, C, *patch), on any device.

    Yields:
        Maps (n, C, H, W) of the next n planes, on that device; valid until the next ones are asked for.
    """
    depth = windows.patch[0]
    slab = torch.empty(0)  # (depth, C, H, W)
    for level, start in enumerate(windows.starts[0]):
        across = windows.across(level)
        for first in range(0, len(across), batch):
            some = across[first : first + batch]
            patches = np.stack([planes[(slice(start, start + depth), *window.place)] for window in some])
            weights = torch.stack([window.weight() for window in some])
            maps = classify(patches[:, None], weights)
            if not slab.numel():
                slab = torch.zeros(depth, maps.shape[1], *windows.size[1:], device=maps.device)
            for window, weight, patch in zip(some, weights.to(maps.device), maps, strict=True):
                slab[(slice(None), slice(None), *window.place)] += weight[:, None] * patch.transpose(0, 1)
        done = windows.starts[0][level + 1] - start if level + 1 < len(windows.starts[0]) else depth
        yield slab[:done]
        _shift(slab, done)


def _shift(slab: Tensor, planes: int) -> None:
    """Move the planes behind the first ones to the front, one by one: no second slab; empty ones follow."""
    kept = len(slab) - planes
    for number in range(kept):
        slab[number] = slab[number + planes]
    slab[kept:] = 0
