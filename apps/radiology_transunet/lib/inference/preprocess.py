"""From a volume to what a network sees, and from a network's planes back to the volume's grid.

One definition for training and inference: read in one direction, normalise intensities, resample within the slices or
along all three axes, pad to what the network can take. The way back along the slices is in `restore`.
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
"""Slices (or rows) that are resampled at once; bounds the memory beside the result."""
STATISTICS_VOXELS = 2_000_000
"""Percentiles of larger volumes are taken on about so many evenly spread voxels."""

MIN_TOKENS = 2
"""Planes are padded to at least so many strides a side: norms over a single position have nothing to measure."""

FloatPlanes = npt.NDArray[np.float32]
ClassPlanes = npt.NDArray[np.uint8]
Size = tuple[int, int]
Size3 = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where the planes of a network lie in the volume that they came from.

    Attributes:
        geometry: the volume's own grid.
        orientation: how its array is read.
        native: (slices, rows, columns) of the volume in that reading direction.
        resampled: (slices, rows, columns) at the spacing of the network.
        padded: (slices, rows, columns) with the padding around, as the network can take them.
    """

    geometry: Geometry
    orientation: Orientation
    native: Size3
    resampled: Size3
    padded: Size3

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """Slices, rows and columns of the padded planes that show the volume."""
        front, top, left = ((p - r) // 2 for p, r in zip(self.padded, self.resampled, strict=True))
        slices, rows, columns = self.resampled
        return slice(front, front + slices), slice(top, top + rows), slice(left, left + columns)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distances between neighbouring (slices, rows, columns) of the volume in the reading direction."""
        slices, rows, columns = self.geometry.spacing_mm
        return (slices, columns, rows) if self.orientation.transposed else (slices, rows, columns)

    def stored_slices(self, read: slice) -> slice:
        """Where consecutive slices of the reading direction lie in the volume's own order."""
        count = self.native[0]
        return slice(count - read.stop, count - read.start) if self.orientation.flips[0] else read


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A volume as a network sees it.

    Attributes:
        planes: (S, H, W) float32 in the placement's reading direction; one plane for each slice of the volume unless
            the slice axis is resampled or padded.
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
        context_slices: of a network of slices.
        stride: of a network of slices; rows and columns are padded to multiples of it.
        patch: (slices, rows, columns) of a network of patches: every axis is padded to at least that many planes, and
            to nothing else. None = a network of slices.
    """

    def __init__(self, config: PreprocessConfig, context_slices: int, stride: int, patch: Size3 | None = None) -> None:
        self.config = config
        self.context_slices = context_slices if patch is None else 0
        self.stride = stride
        self.patch = patch

    def place(self, geometry: Geometry) -> Placement:
        """Where the planes of a volume on this grid will lie."""
        orientation = Orientation.of(geometry)
        native, spacing_mm = geometry.shape, geometry.spacing_mm
        if orientation.transposed:
            native, spacing_mm = (native[0], native[2], native[1]), (spacing_mm[0], spacing_mm[2], spacing_mm[1])
        slices, rows, columns = (
            count if wanted is None else max(1, round(count * mm / wanted))
            for count, mm, wanted in zip(native, spacing_mm, self._wanted_mm(), strict=True)
        )
        resampled = slices, rows, columns
        return Placement(geometry, orientation, native, resampled, self._padded(resampled))

    def apply(self, volume: Volume) -> Prepared:
        """The planes of a volume.

        Intensities end in [-1, 1] with a window, else with mean 0 and deviation 1; the padding has the lowest one.
        """
        placement = self.place(volume.geometry)
        low, high, centre, scale = self._intensities(volume)
        oriented = placement.orientation.view(volume.array)
        lowest = np.float32((low - centre) / scale)

        def fill(target: FloatPlanes) -> None:
            for first in range(0, len(oriented), CHUNK_SLICES):
                chunk = slice(first, first + CHUNK_SLICES)
                normalised = (np.clip(oriented[chunk], low, high) - centre) / scale
                target[chunk] = resized(normalised.astype(np.float32), placement.resampled[1:])

        planes = np.full(placement.padded, lowest, dtype=np.float32)
        if placement.resampled[0] == placement.native[0]:
            fill(planes[placement.inside])
        else:
            within = np.empty((len(oriented), *placement.resampled[1:]), dtype=np.float32)
            fill(within)
            _resize_slices(within, planes[placement.inside])
        return Prepared(planes, self.context_slices, placement)

    def apply_mask(self, mask: Mask, placement: Placement) -> ClassPlanes:
        """Class numbers (S, H, W) uint8 of a mask on the volume's grid: 0 background, then the schema's order."""
        placement.geometry.require_same(mask.geometry, "the mask")
        oriented = placement.orientation.view(class_numbers(mask))
        planes = np.zeros(placement.padded, dtype=np.uint8)
        nearest = (
            np.minimum(((np.arange(wanted) + 0.5) * (given / wanted)).astype(np.intp), given - 1)
            for given, wanted in zip(placement.native, placement.resampled, strict=True)
        )
        planes[placement.inside] = oriented[np.ix_(*nearest)]
        return planes

    def restore(self, planes: Tensor, placement: Placement) -> Tensor:
        """Planes (B, C, H, W) of a network, such as probabilities, to the volume's pixels (B, C, rows, columns).

        Linear between the pixels, so class probabilities still sum to 1. The reading direction stays the placement's,
        and the slices stay those of the network: see `restore.SliceRestorer` for the way back along them.
        """
        inside = planes[(..., *placement.inside[1:])]
        if placement.native[1:] == placement.resampled[1:]:
            return inside
        return F.interpolate(inside, size=placement.native[1:], mode="bilinear", align_corners=False)

    def _wanted_mm(self) -> tuple[float | None, float | None, float | None]:
        """Spacing of (slices, rows, columns) that the network sees; None = the volume's own."""
        wanted = self.config.spacing_mm
        return wanted if isinstance(wanted, tuple) else (None, wanted, wanted)

    def _padded(self, resampled: Size3) -> Size3:
        if self.patch is not None:
            slices, rows, columns = (max(pair) for pair in zip(self.patch, resampled, strict=True))
            return slices, rows, columns
        rows, columns = (max(MIN_TOKENS, -(-n // self.stride)) * self.stride for n in resampled[1:])
        return resampled[0], rows, columns

    def _intensities(self, volume: Volume) -> tuple[float, float, float, float]:
        """Lowest and highest intensity that is kept, and the centre and scale of what is left."""
        if self.config.window_hu is not None:
            low, high = self.config.window_hu
            return low, high, (low + high) / 2, (high - low) / 2
        voxels = np.ravel(_without_empty_slices(volume.array), order="K")
        sample = voxels[:: max(1, voxels.size // STATISTICS_VOXELS) | 1]
        low, high = (float(p) for p in np.percentile(sample, self.config.clip_percentiles))
        clipped = np.clip(sample, low, high).astype(np.float64)
        deviation = float(clipped.std())
        return low, high, float(clipped.mean()), deviation if deviation > 0 else 1.0


def _without_empty_slices(array: FloatPlanes) -> FloatPlanes:
    """The slices of (S, R, C) that show anything, all where none does: padding says nothing of tissue."""
    empty = np.array([plane.min() == plane.max() for plane in array])
    return array[~empty] if empty.any() and not empty.all() else array


def class_numbers(mask: Mask) -> ClassPlanes:
    """Label ids of a mask as class numbers (S, R, C) uint8: 0 background, then the schema's order from 1."""
    table = np.full(256, BACKGROUND, dtype=np.uint8)
    table[list(mask.schema.ids)] = np.arange(1, len(mask.schema) + 1)
    return np.asarray(table[mask.array])


def resized(planes: FloatPlanes, size: Size) -> FloatPlanes:
    """Planes (S, R, C) at another size; averaged where they shrink."""
    if planes.shape[1:] == size:
        return planes
    if size[1] == 1 != size[0]:  # torch 2.15 repeats the first pixel of a column that it makes
        return resized(planes.swapaxes(1, 2), (1, size[0])).swapaxes(1, 2)
    batch = torch.from_numpy(np.ascontiguousarray(planes))[:, None]
    changed = F.interpolate(batch, size=size, mode="bilinear", align_corners=False, antialias=True)
    return np.asarray(changed[:, 0].numpy())


def _resize_slices(planes: FloatPlanes, target: FloatPlanes) -> None:
    """Planes (S, H, W) into planes (S', H, W), linear along the slices; averaged where they shrink."""
    for first in range(0, planes.shape[1], CHUNK_SLICES):
        rows = slice(first, first + CHUNK_SLICES)
        flat = planes[:, rows].reshape(1, len(planes), -1)  # (1, S, rows * W): the slices as rows of one picture
        changed = resized(flat, (len(target), flat.shape[2]))
        target[:, rows] = changed.reshape(target[:, rows].shape)
