"""How often a network of patches halves each axis, and how wide its kernels are: nnU-Net's rules.

Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation", Nature
Methods 2021, supplementary note 2. All sides are in voxels and all triples run (slices, rows, columns).
"""

from collections.abc import Sequence
from math import ceil, inf, prod

from lib.core.errors import InvalidSettings

Triple = tuple[int, int, int]

ISOTROPIC_MM = (1.0, 1.0, 1.0)
SIMILAR = 2.0
"""Spacings that differ by less than this factor are treated alike."""


def plan_strides(
    patch: Sequence[int], spacing_mm: Sequence[float] = ISOTROPIC_MM, deepest: int = 4
) -> tuple[Triple, ...]:
    """The stride of each stage after the first, per axis 1 or 2.

    At each step every axis is halved whose feature side can be halved without falling below `deepest` and whose spacing
    is within a factor of two of the finest of those axes. A step that would halve one axis alone is taken only while
    that side has 3 `deepest` voxels or more.

    Args:
        patch: sides of what the network sees at once, in voxels.
        spacing_mm: of the voxels of the patch.
        deepest: shortest feature side of the last stage, in voxels, on an axis that is halved at all.

    Returns:
        As many strides as there are halvings; none for a patch that is too small for any.

    Raises:
        InvalidSettings: not three positive numbers.
    """
    measured = len(spacing_mm) == 3 and all(0 < mm < inf for mm in spacing_mm)
    if len(patch) != 3 or min(patch) < 1 or not measured or deepest < 1:
        raise InvalidSettings(
            f"a plan needs three positive sides, three positive spacings and a positive deepest side, "
            f"got {tuple(patch)}, {tuple(spacing_mm)} and {deepest}"
        )
    sides, spacings, strides = list(patch), list(spacing_mm), []
    while axes := _axes_to_halve(sides, spacings, deepest):
        for axis in axes:
            sides[axis] = ceil(sides[axis] / 2)
            spacings[axis] *= 2
        strides.append((1 + (0 in axes), 1 + (1 in axes), 1 + (2 in axes)))
    return tuple(strides)


def spaced_strides(patch: Sequence[int], spacing_mm: Sequence[float], same_depth: bool) -> tuple[Triple, ...]:
    """The strides that a spacing asks for where cubes would have others; none where those of cubes stay.

    They stay where a patch that cubes allow would not be allowed any more.

    Args:
        patch: (slices, rows, columns) in voxels.
        spacing_mm: of its voxels.
        same_depth: whether there must be as many strides as for cubes, whose stages have their channels.
    """
    cubes, strides = plan_strides(patch), plan_strides(patch, spacing_mm)
    multiples = side_multiples(strides)
    divides = all(side % multiple == 0 for side, multiple in zip(patch, multiples, strict=True))
    other_depth = same_depth and len(strides) != len(cubes)
    return () if strides == cubes or not divides or tuple(patch) == multiples or other_depth else strides


def plan_kernels(strides: Sequence[Triple]) -> tuple[Triple, ...]:
    """Sides of the kernels of each stage, the first and the last included: one more than there are strides.

    A kernel has side 1 along an axis as long as the strides leave that axis alone to halve it later, because its voxels
    are still more than twice as long as the finest; 3 from the stage on whose result is halved along it, and 3 in the
    last stage. An axis that is never halved is thin and not coarse: 3.
    """
    late = [next((stage for stage, stride in enumerate(strides) if stride[axis] > 1), 0) for axis in range(3)]
    stages = range(len(strides) + 1)
    return tuple((_side(stage, late[0]), _side(stage, late[1]), _side(stage, late[2])) for stage in stages)


def side_multiples(strides: Sequence[Triple]) -> Triple:
    """What the sides of an image must be multiples of: the product of the strides of each axis."""
    return (prod(s[0] for s in strides), prod(s[1] for s in strides), prod(s[2] for s in strides))


def round_patch(patch: Sequence[int], strides: Sequence[Triple]) -> Triple:
    """The smallest patch that holds this one and that the strides divide."""
    multiples = side_multiples(strides)
    slices, rows, columns = (ceil(side / m) * m for side, m in zip(patch, multiples, strict=True))
    return (slices, rows, columns)


def _axes_to_halve(sides: Sequence[int], spacings: Sequence[float], deepest: int) -> list[int]:
    """Axes that the next stage halves; none at the end."""
    long_enough = [axis for axis in range(3) if sides[axis] >= 2 * deepest]
    if not long_enough:
        return []
    finest = min(spacings[axis] for axis in long_enough)
    axes = [axis for axis in long_enough if spacings[axis] / finest < SIMILAR]
    if len(axes) == 1 and sides[axes[0]] < 3 * deepest:
        return []
    return axes


def _side(stage: int, first_halved: int) -> int:
    return 3 if stage >= first_halved else 1
