"""How large a patch, a batch and a network may be on a machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, prod

from lib.networks.topology import plan_strides, round_patch, side_multiples

Triple = tuple[int, int, int]
Numbers = tuple[float, float, float]

USABLE = 0.85
"""Share of a device's memory that a training may plan with."""
PATCH_BYTES, SLICE_BYTES = 3600, 10_000
"""Of memory for each voxel of a patch, or pixel of a slice, in a training step of the size "base": 1.5 times what torch
keeps for the backward pass in fp32 with 14 classes (2378 at 64 x 64 x 64, 7107 at 224 x 224)."""
PATCH_FIXED_GB, SLICE_FIXED_GB = 2.0, 3.5
"""Weights, gradients, averages and the optimiser's moments of "base", and what CUDA itself takes."""
BASE_FROM_GB = 8.0
"""Smaller devices train the size "small"."""
SMALL_SHARE = 0.2
"""Memory of "small" as a share of that of "base", rounded up: 0.14 of patches."""

CPU_STEP_VOXELS, CPU_SMALL_VOXELS = 250_000, 200_000
"""Voxels of a training step on two cores: about 0.3 s with "tiny"; up to the second, "small" stays below a second."""
CPU_VOLUME_VOXELS, CPU_SLICE_SIDE = 2_100_000, 128
"""Two cores see typical images no larger than this, at a coarser spacing if need be. Finer slices cost more than they
bring in minutes: four organs of 256 x 256 pixels had a Dice of 0.94 after 47 s of one core at 2.5 mm, 0.17 at 1.25."""
CPU_STEP_PIXELS = 4 * CPU_SLICE_SIDE**2
"""Of slices in one step: four whole ones, about 0.2 s."""

LEAST_SIDES = (8, 16, 16)
MOST_PATCHES, MOST_SLICES = 8, 16


@dataclass(frozen=True, slots=True)
class Machine:
    """What will train: a graphics card with so many GB, or two CPU cores (None)."""

    memory_gb: float | None

    @property
    def name(self) -> str:
        """In words."""
        return "two CPU cores" if self.memory_gb is None else f"a device of {self.memory_gb:g} GB"

    @property
    def large(self) -> bool:
        """Whether the published sizes fit."""
        return self.memory_gb is not None and self.memory_gb >= BASE_FROM_GB

    @property
    def why(self) -> str:
        """Reason for the network's size."""
        return f"{'as published' if self.large else 'reduced'}, for {self.name}"

    @property
    def step_voxels(self) -> int:
        """Voxels of patches in one step."""
        return CPU_STEP_VOXELS if self.memory_gb is None else self._held(PATCH_FIXED_GB, PATCH_BYTES)

    @property
    def patch_voxels(self) -> int:
        """Voxels of the largest patch: two must fit."""
        return self.step_voxels // 2

    @property
    def slice_pixels(self) -> int:
        """Pixels of slices in one step."""
        return CPU_STEP_PIXELS if self.memory_gb is None else self._held(SLICE_FIXED_GB, SLICE_BYTES)

    @property
    def size_of_slices(self) -> str:
        """Size of a network of slices."""
        if self.memory_gb is None:
            return "tiny"
        return "base" if self.large else "small"

    @property
    def steps(self) -> int:
        """Of a training."""
        return 1500 if self.memory_gb is None else 25_000

    @property
    def why_steps(self) -> str:
        """Reason for the number of steps."""
        return "some minutes" if self.memory_gb is None else "as 100 epochs of nnU-Net; 250000 are its full schedule"

    @property
    def minutes(self) -> float | None:
        """Time budget, where the number of steps is none."""
        return 15.0 if self.memory_gb is None else None

    @property
    def learning_rate(self) -> float:
        """Peak rate of AdamW."""
        return 3e-4 if self.large else 3e-3

    def patches(self, patch: Triple) -> int:
        """Patches of one step."""
        return min(max(2, self.step_voxels // prod(patch)), 2 if self.memory_gb is None else MOST_PATCHES)

    def slices(self, crop: tuple[int, int]) -> int:
        """Slices of one step."""
        return min(max(1, self.slice_pixels // prod(crop)), MOST_SLICES)

    def size_of_patches(self, patch: Triple, batch: int) -> str:
        """Size of a network of patches."""
        if self.large:
            return "base"
        return "small" if self.memory_gb is not None or batch * prod(patch) <= CPU_SMALL_VOXELS else "tiny"

    def _held(self, fixed_gb: float, voxel_bytes: float) -> int:
        share = 1.0 if self.large else SMALL_SHARE
        free = USABLE * (self.memory_gb or 0) - share * fixed_gb
        return max(1, floor(max(free, 0.1) * 1e9 / (share * voxel_bytes)))


def coarsened(
    spacing_mm: Numbers, size_at: Callable[[Sequence[float]], Numbers], machine: Machine, slices: bool
) -> Numbers:
    """The spacing at which the machine can see a typical image; only two CPU cores need a coarser one.

    The finest axes become coarser first, those within the slices alone for a network of slices.

    Args:
        spacing_mm: of (slices, rows, columns).
        size_at: the typical size at a spacing.
        machine: what will train.
        slices: whether the network is one of slices.
    """
    if machine.memory_gb is not None:
        return spacing_mm
    slice_mm, row_mm, column_mm = spacing_mm
    finest_mm = min(spacing_mm)
    while True:
        within = max(row_mm, finest_mm), max(column_mm, finest_mm)
        wanted = (slice_mm if slices else max(slice_mm, finest_mm), *within)
        size = size_at(wanted)
        if max(size[1:]) <= CPU_SLICE_SIDE if slices else prod(size) <= CPU_VOLUME_VOXELS:
            return wanted
        finest_mm *= 1.02


def sized_patch(size: Numbers, spacing_mm: Numbers, voxels: int) -> tuple[Triple, tuple[Triple, ...]]:
    """The patch and its strides: a typical image whole, or else as near to a cube in mm as the voxels allow.

    Sides that hold the typical image are rounded up to what the strides divide, others down.

    Args:
        size: of a typical image, in voxels.
        spacing_mm: of its voxels.
        voxels: that a patch may have.
    """
    whole = [max(least, ceil(side - 0.5)) for least, side in zip(LEAST_SIDES, size, strict=True)]
    sides = list(whole)
    if prod(whole) > voxels:
        edge_mm = max(side * mm for side, mm in zip(whole, spacing_mm, strict=True))
        while prod(sides) > voxels and edge_mm > min(spacing_mm):
            edge_mm *= 0.98
            cube = (floor(edge_mm / mm) for mm in spacing_mm)
            sides = [max(min(s, w), least) for s, w, least in zip(cube, whole, LEAST_SIDES, strict=True)]
    strides = plan_strides(sides, spacing_mm)
    multiples = side_multiples(strides)
    rounded = [
        side if side >= full else max(multiple, side - side % multiple)
        for side, full, multiple in zip(sides, whole, multiples, strict=True)
    ]
    return round_patch(rounded, strides), strides


def slice_crop(size: tuple[float, float], stride: int, pixels: int) -> tuple[int, int]:
    """(rows, columns) of what a step sees: a typical slice whole, or the largest part of which four fit."""
    most = floor((pixels / 4) ** 0.5)
    rows, columns = (max(2, ceil(side / stride) if side <= most else most // stride) * stride for side in size)
    return rows, columns
