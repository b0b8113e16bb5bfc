"""Where training pictures are moved: mirrored, turned, scaled, shifted and bent, images and classes alike.

A picture is a slice with its neighbours as channels (in, H, W), or a patch (1, S, H, W). Turn, scale, shift and bend
are one field of positions, so a picture is resampled once; mirroring moves voxels and resamples nothing.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Column = npt.NDArray[np.float32]

CONTROL_POINTS = 7
"""Of an axis that is bent: a cubic B-spline has so many for four intervals.

Such a deformation cannot fold while no control point moves further than 0.48 intervals in a plane and 0.40 in space
(Choi and Lee, Graphical Models 62, 2000), which is 0.1 of a side.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """How B pictures are moved; every array is (B,) unless said otherwise.

    Attributes:
        angle_rad: turn within the slice.
        scale: size of the content, 1 = unchanged.
        shift: (B, 3) along (slices, rows, columns), as a share of the side; slices alone have no first one.
        flips: (B, 3) bool, along (slices, rows, columns).
        tilt_rad: (B, 2) turn about the (row, column) axis of a patch whose slices are as many as its rows or columns;
            see `thickness`.
        elastic: (B, D, *CONTROL_POINTS) largest displacement by D = 2 (columns, rows) or 3 (columns, rows, slices),
            as a share of the shortest side; or None.
    """

    angle_rad: Column
    scale: Column
    shift: Column
    flips: npt.NDArray[np.bool_]
    tilt_rad: Column
    elastic: Column | None = None

    @property
    def moving(self) -> npt.NDArray[np.intp]:
        """Numbers of the pictures that must be resampled."""
        moves = (self.angle_rad != 0) | (self.scale != 1) | self.shift.any(axis=1) | self.tilt_rad.any(axis=1)
        if self.elastic is not None:
            moves |= self.elastic.reshape(len(moves), -1).any(axis=1)
        return np.flatnonzero(moves)

    def only(self, numbers: npt.NDArray[np.intp]) -> "Moves":
        """The moves of some of the pictures."""
        return Moves(
            angle_rad=self.angle_rad[numbers],
            scale=self.scale[numbers],
            shift=self.shift[numbers],
            flips=self.flips[numbers],
            tilt_rad=self.tilt_rad[numbers],
            elastic=None if self.elastic is None else self.elastic[numbers],
        )

    def for_some(self, rng: np.random.Generator, share: float) -> "Moves":
        """The same moves, each of them but the flips for that share of the pictures alone."""
        turned, scaled, shifted, bent = rng.random((4, len(self.scale))) < share
        return replace(
            self,
            angle_rad=self.angle_rad * turned,
            tilt_rad=self.tilt_rad * turned[:, None],
            scale=np.where(scaled, self.scale, np.float32(1)),
            shift=self.shift * shifted[:, None],
            elastic=None if self.elastic is None else (self.elastic.T * bent).T,
        )


def thickness(shape: torch.Size) -> float:
    """Slices of a patch (..., S, H, W) as a share of its longest side within the slice, at most 1.

    A patch with few slices has thick ones. Tilts, and coarser sampling across the slices, are reduced by this factor:
    the tilt then moves the patch's edge by the same share of its thickness whatever the slices' distance, and a patch
    of one slice stays in its plane.
    """
    return min(1.0, shape[-3] / max(shape[-2:]))


def flip(images: Tensor, classes: Tensor, flips: npt.NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """Mirrored images (B, in, H, W) or (B, 1, S, H, W) and classes (B, H, W) or (B, S, H, W)."""
    for axis in range(3):
        chosen = np.flatnonzero(flips[:, axis])
        if chosen.size:
            images = _flip_some(images, chosen, images.ndim - 3 + axis)
            where = classes.ndim - 3 + axis  # the slice axis does not exist in the classes of a slice
            classes = _flip_some(classes, chosen, where) if where > 0 else classes
    return images, classes


def _flip_some(values: Tensor, chosen: npt.NDArray[np.intp], axis: int) -> Tensor:
    numbers = torch.from_numpy(chosen).to(values.device)
    return values.index_copy(0, numbers, values[numbers].flip(axis))


def move(images: Tensor, classes: Tensor, moves: Moves) -> tuple[Tensor, Tensor]:
    """Turned, scaled, shifted and bent pictures; linear for images, nearest for classes; the border repeats."""
    moving = moves.moving
    if not moving.size:
        return images, classes
    if moving.size == len(images):
        return _resample(images, classes, moves, moving)
    numbers = torch.from_numpy(moving).to(images.device)
    some = _resample(images[numbers], classes[numbers], moves, moving)
    return images.index_copy(0, numbers, some[0]), classes.index_copy(0, numbers, some[1])


def _resample(images: Tensor, classes: Tensor, moves: Moves, moving: npt.NDArray[np.intp]) -> tuple[Tensor, Tensor]:
    theta = torch.from_numpy(sampling_matrices(moves, classes.shape[1:])[moving]).to(images.device)
    grid = F.affine_grid(theta, [len(images), 1, *classes.shape[1:]], align_corners=False)  # (B, *space, D)
    if moves.elastic is not None:
        grid = grid + bend(torch.from_numpy(moves.elastic[moving]).to(images.device), classes.shape[1:])
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    planes = classes[:, None].float()  # class numbers up to 255 are exact in float32
    planes = F.grid_sample(planes, grid, mode="nearest", padding_mode="border", align_corners=False)
    return moved, planes[:, 0].to(classes.dtype)


def sampling_matrices(moves: Moves, space: torch.Size) -> npt.NDArray[np.float32]:
    """(B, D, D + 1) matrices for affine_grid: output to input positions, (x, y) or (x, y, z) in [-1, 1].

    Args:
        moves: of the pictures.
        space: (H, W) of slices, (S, H, W) of patches. The turn is one of voxels, so it is conjugated with the sides of
            a picture that is not square.
    """
    sides = tuple(reversed(space))  # (x, y) or (x, y, z)
    axes = len(sides)
    theta = np.zeros((len(moves.scale), axes, axes + 1), dtype=np.float32)
    theta[:, :, :axes] = _turns(moves, thickness(space) if axes == 3 else None)
    for i in range(axes):
        for j in range(i + 1, axes):
            ratio = sides[j] / sides[i]
            theta[:, i, j] *= ratio
            theta[:, j, i] /= ratio
    theta[:, :, axes] = -2 * moves.shift[:, ::-1][:, :axes]
    return theta


def _turns(moves: Moves, thick: float | None) -> npt.NDArray[np.float32]:
    """(B, D, D) rotations of voxels, divided by the scale; `thick` is None for slices, which have no tilt."""
    axes = 2 if thick is None else 3
    turns = np.zeros((len(moves.scale), axes, axes), dtype=np.float32)
    cos, sin = np.cos(moves.angle_rad) / moves.scale, np.sin(moves.angle_rad) / moves.scale
    turns[:, 0, 0], turns[:, 0, 1] = cos, -sin
    turns[:, 1, 0], turns[:, 1, 1] = sin, cos
    if thick is None:
        return turns
    turns[:, 2, 2] = 1 / moves.scale
    about_rows, about_columns = (thick * moves.tilt_rad).T
    return turns @ _rotation(about_rows, 0) @ _rotation(about_columns, 1)


def _rotation(angles_rad: Column, moving: int) -> npt.NDArray[np.float32]:
    """(B, 3, 3) turns of the axes `moving` (0 = x, 1 = y) and z into each other."""
    turns = np.tile(np.eye(3, dtype=np.float32), (len(angles_rad), 1, 1))
    turns[:, moving, moving] = turns[:, 2, 2] = np.cos(angles_rad)
    turns[:, 2, moving] = np.sin(angles_rad)
    turns[:, moving, 2] = -turns[:, 2, moving]
    return turns


def bend(elastic: Tensor, space: torch.Size) -> Tensor:
    """Displacements (B, *space, D) in affine_grid's positions, smooth between the control points.

    Cubic B-splines (Rueckert et al., IEEE TMI 18, 1999): each displacement is a weighted mean of those of the control
    points around it, and so never larger than the largest of them.

    Args:
        elastic: (B, D, *CONTROL_POINTS), see `Moves`.
        space: (H, W) or (S, H, W).
    """
    field = elastic
    for side in space:  # (B, D, a, b, c) -> (B, D, b, c, S) -> (B, D, c, S, H) -> (B, D, S, H, W)
        weights = torch.from_numpy(spline_weights(side)).to(elastic.device)
        field = torch.tensordot(field, weights, dims=([2], [1]))
    shares = torch.tensor([2 * min(space) / side for side in reversed(space)], device=elastic.device)
    return field.movedim(1, -1) * shares


def spline_weights(side: int) -> npt.NDArray[np.float32]:
    """(side, CONTROL_POINTS) weights of the control points at the voxels' centres; each row sums to 1."""
    intervals = CONTROL_POINTS - 3
    places = (np.arange(side) + 0.5) / side * intervals
    first = np.minimum(places.astype(np.intp), intervals - 1)
    u = places - first
    around = np.stack([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3], axis=1) / 6
    weights = np.zeros((side, CONTROL_POINTS), dtype=np.float32)
    np.put_along_axis(weights, first[:, None] + np.arange(4), around.astype(np.float32), axis=1)
    return weights
