"""From a volume to what a network sees, and from a network's planes back to the volume's grid.

One definition for training and inference: read in one direction, normalise intensities, resample within the slices,
pad to the network's stride.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lib.core.geometry import Geometry
from lib.core.labels import BACKGROUND
from lib.core.values import Mask, Volume
from lib.inference.config import PreprocessConfig
from lib.inference.orientation import Orientation

CHUNK_SLICES = 16
"""Slices that are resampled at once; bounds the memory beside the result."""
STATISTICS_VOXELS = 2_000_000
"""Percentiles of larger volumes are taken on about so many evenly spread voxels."""

MIN_TOKENS = 2
"""Planes are padded to at least so many strides a side: norms over a single position have nothing to measure."""

FloatPlanes = npt.NDArray[np.float32]
ClassPlanes = npt.NDArray[np.uint8]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where the planes of a network lie in the volume that they came from.

    Attributes:
        geometry: the volume's own grid.
        orientation: how its array is read.
        native: (rows, columns) of the volume in that reading direction.
        resampled: (rows, columns) at the spacing of the network.
        padded: (rows, columns) with the padding around, multiples of the stride.
    """

    geometry: Geometry
    orientation: Orientation
    native: Size
    resampled: Size
    padded: Size

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of a padded plane that show the volume."""
        top, left = ((p - r) // 2 for p, r in zip(self.padded, self.resampled, strict=True))
        return slice(top, top + self.resampled[0]), slice(left, left + self.resampled[1])


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A volume as a network sees it.

    Attributes:
        planes: (S, H, W) float32, one plane for each slice, in the placement's reading direction.
        context_slices: neighbours on each side that enter with a slice; the outermost slices repeat.
        placement: the way back.
    """

    planes: FloatPlanes
    context_slices: int
    placement: Placement

    @property
    def slices(self) -> FloatPlanes:
        """(S, 1 + 2 context, H, W) float32: each slice between its neighbours; one copy of the planes, read-only."""
        return neighbourhoods(self.planes, self.context_slices)


def neighbourhoods(planes: FloatPlanes, context_slices: int) -> FloatPlanes:
    """Planes (S, H, W) to (S, 1 + 2 context, H, W); beyond the ends the outermost plane repeats."""
    if context_slices == 0:
        return planes[:, None]
    padded = np.pad(planes, ((context_slices, context_slices), (0, 0), (0, 0)), mode="edge")
    windows = sliding_window_view(padded, 1 + 2 * context_slices, axis=0)  # (S, H, W, in)
    return np.moveaxis(windows, -1, 1)  # (S, in, H, W)


class Preprocess:
    """Volume -> planes of a network, and back.

    Args:
        config: of the task.
        context_slices: of the network.
        stride: of the network; rows and columns are padded to multiples of it.
    """

    def __init__(self, config: PreprocessConfig, context_slices: int, stride: int) -> None:
        self.config = config
        self.context_slices = context_slices
        self.stride = stride

    def place(self, geometry: Geometry) -> Placement:
        """Where the planes of a volume on this grid will lie."""
        orientation = Orientation.of(geometry)
        _, rows, columns = geometry.shape
        _, row_mm, column_mm = geometry.spacing_mm
        if orientation.transposed:
            rows, columns, row_mm, column_mm = columns, rows, column_mm, row_mm
        wanted_mm = self.config.spacing_mm
        resampled = rows, columns
        if wanted_mm is not None:
            resampled = max(1, round(rows * row_mm / wanted_mm)), max(1, round(columns * column_mm / wanted_mm))
        padded = tuple(max(MIN_TOKENS, -(-n // self.stride)) * self.stride for n in resampled)
        return Placement(geometry, orientation, (rows, columns), resampled, (padded[0], padded[1]))

    def apply(self, volume: Volume) -> Prepared:
        """The planes of a volume.

        Intensities end in [-1, 1] with a window, else with mean 0 and deviation 1; the padding has the lowest one.
        """
        placement = self.place(volume.geometry)
        low, high, centre, scale = self._intensities(volume)
        oriented = placement.orientation.view(volume.array)
        planes = np.full((len(oriented), *placement.padded), (low - centre) / scale, dtype=np.float32)
        for first in range(0, len(oriented), CHUNK_SLICES):
            chunk = slice(first, first + CHUNK_SLICES)
            normalised = (np.clip(oriented[chunk], low, high) - centre) / scale
            planes[(chunk, *placement.inside)] = _resized(normalised.astype(np.float32), placement.resampled)
        return Prepared(planes, self.context_slices, placement)

    def apply_mask(self, mask: Mask, placement: Placement) -> ClassPlanes:
        """Class numbers (S, H, W) uint8 of a mask on the volume's grid: 0 background, then the schema's order."""
        placement.geometry.require_same(mask.geometry, "the mask")
        oriented = placement.orientation.view(class_numbers(mask))
        planes = np.zeros((len(oriented), *placement.padded), dtype=np.uint8)
        rows, columns = (
            np.minimum(((np.arange(wanted) + 0.5) * (given / wanted)).astype(np.intp), given - 1)
            for given, wanted in zip(placement.native, placement.resampled, strict=True)
        )
        planes[(slice(None), *placement.inside)] = oriented[:, rows[:, None], columns[None, :]]
        return planes

    def restore(self, planes: Tensor, placement: Placement) -> Tensor:
        """Planes (B, C, H, W) of a network, such as probabilities, to the volume's pixels (B, C, rows, columns).

        Linear between the pixels, so class probabilities still sum to 1. The reading direction stays the placement's:
        write the result into `placement.orientation.view` of an array on the volume's grid.
        """
        inside = planes[(..., *placement.inside)]
        if placement.native == placement.resampled:
            return inside
        return F.interpolate(inside, size=placement.native, mode="bilinear", align_corners=False)

    def _intensities(self, volume: Volume) -> tuple[float, float, float, float]:
        """Lowest and highest intensity that is kept, and the centre and scale of what is left."""
        if self.config.window_hu is not None:
            low, high = self.config.window_hu
            return low, high, (low + high) / 2, (high - low) / 2
        voxels = np.ravel(volume.array, order="K")
        sample = voxels[:: max(1, voxels.size // STATISTICS_VOXELS) | 1]
        low, high = (float(p) for p in np.percentile(sample, self.config.clip_percentiles))
        clipped = np.clip(sample, low, high).astype(np.float64)
        deviation = float(clipped.std())
        return low, high, float(clipped.mean()), deviation if deviation > 0 else 1.0


def class_numbers(mask: Mask) -> ClassPlanes:
    """Label ids of a mask as class numbers (S, R, C) uint8: 0 background, then the schema's order from 1."""
    table = np.full(256, BACKGROUND, dtype=np.uint8)
    table[list(mask.schema.ids)] = np.arange(1, len(mask.schema) + 1)
    return np.asarray(table[mask.array])


def _resized(planes: FloatPlanes, size: Size) -> FloatPlanes:
    """Planes (S, R, C) at another size; averaged where they shrink."""
    if planes.shape[1:] == size:
        return planes
    batch = torch.from_numpy(np.ascontiguousarray(planes))[:, None]
    resized = F.interpolate(batch, size=size, mode="bilinear", align_corners=False, antialias=True)
    return np.asarray(resized[:, 0].numpy())
