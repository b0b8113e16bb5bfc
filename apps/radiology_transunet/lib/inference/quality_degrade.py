"""Pictures made worse on purpose, so that an estimate of quality has seen more than good ones.

Each kind takes a strength from 0 (nothing) to about 1 (a picture that hardly anybody would read). Intensities change
between the lowest and the highest of the picture (0.5 and 99.5 %), so CT and MR are treated alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from lib.core.geometry import Geometry
from lib.core.values import Mask, Volume

FloatArray = npt.NDArray[np.float32]
ENDS = (0.5, 99.5)
"""Percentiles between which intensities lie."""
MOST_NOISE = 0.25
"""Standard deviation of the strongest noise, as a share of the intensities' range."""
GHOSTS = (0.25, 0.5)
"""Where motion between excitations repeats the picture, as shares of the rows."""
MOST_CUT = 0.4
"""Share of an axis that the strongest crop takes away."""
FEWEST = 8
"""Slices, rows or columns that a crop leaves, where there are so many."""


@dataclass(frozen=True, slots=True, eq=False)
class Degraded:
    """A picture, and where its voxels lie in the one that it was made of.

    Attributes:
        volume: the picture.
        box: slices, rows and columns of the original.
    """

    volume: Volume
    box: tuple[slice, slice, slice]

    def cut(self, mask: Mask) -> Mask:
        """A mask of the original on the grid of this picture."""
        return Mask(mask.array[self.box], self.volume.geometry, mask.schema)


def planned(number: int, copies: int, strengths: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Kind and strength of each worse copy of the `number`-th picture: all combinations occur alike in many."""
    turns = range(number * copies, (number + 1) * copies)
    return tuple((KINDS[turn % len(KINDS)], strengths[turn // len(KINDS) % len(strengths)]) for turn in turns)


def degrade(volume: Volume, kind: str, strength: float, rng: np.random.Generator) -> Degraded:
    """A worse picture of the same body.

    Args:
        volume: the picture.
        kind: one of `KINDS`.
        strength: from 0 to about 1.
        rng: of what is drawn.
    """
    if kind == "crop":
        return crop(volume, strength, rng)
    low, high = np.percentile(volume.array, ENDS)
    scaled = (volume.array - low) / max(float(high - low), np.finfo(np.float32).tiny)
    changed = INTENSITIES[kind](scaled.astype(np.float32), strength, rng) * (high - low) + low
    everything = tuple(slice(0, size) for size in volume.array.shape)
    return Degraded(Volume(changed.astype(np.float32), volume.geometry, volume.modality), everything)  # type: ignore[arg-type]


def noise(image: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Gaussian noise on an image (S, R, C) in [0, 1]."""
    return image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(MOST_NOISE * strength)


def motion(image: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Ghosts of an image (S, R, C) along its rows, and a blur, as breathing leaves them."""
    axis = int(rng.integers(1, 3))
    size = image.shape[axis]
    shifts = [round(share * size) + int(rng.integers(-1, 2)) for share in GHOSTS]
    ghosts = sum(np.roll(image, shift, axis) for shift in shifts) / len(shifts)
    smear = 1 + round(2 * strength)
    blurred = sum(np.roll(image, step, axis) for step in range(-smear, smear + 1)) / (2 * smear + 1)
    sharp, share = np.float32(1 - 0.7 * strength), np.float32(0.35 * strength)
    return np.asarray((sharp * image + (1 - sharp) * blurred) * (1 - share) + share * ghosts, dtype=np.float32)


def bias(image: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """A smooth factor over an image (S, R, C) in [0, 1]: exp of a random polynomial of the second degree."""
    axes = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in image.shape), indexing="ij")
    field = np.zeros(image.shape, dtype=np.float32)
    for number, one in enumerate(axes):
        field += np.float32(rng.uniform(-1, 1)) * one
        for other in axes[number:]:
            field += np.float32(rng.uniform(-1, 1)) * one * other
    field /= np.float32(max(float(np.abs(field).max()), 1e-6))
    return np.asarray(image * np.exp(np.float32(1.2 * strength) * field), dtype=np.float32)


def crop(volume: Volume, strength: float, rng: np.random.Generator) -> Degraded:
    """Without a share of the slices, rows or columns at one end, as of a field of view that is too small."""
    axis, at_start = int(rng.integers(3)), bool(rng.integers(2))
    sizes = volume.array.shape
    kept = max(min(FEWEST, sizes[axis]), round(sizes[axis] * (1 - MOST_CUT * strength)))
    first = sizes[axis] - kept if at_start else 0
    box = tuple(slice(first, first + kept) if number == axis else slice(0, size) for number, size in enumerate(sizes))
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.to_lps([float(side.start) for side in box])
    array = volume.array[box]
    return Degraded(Volume(array, Geometry(array.shape, affine), volume.modality), box)  # type: ignore[arg-type]


INTENSITIES: Mapping[str, Callable[[FloatArray, float, np.random.Generator], FloatArray]] = MappingProxyType(
    {"noise": noise, "motion": motion, "bias": bias}
)
KINDS = (*INTENSITIES, "crop")
