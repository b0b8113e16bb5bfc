"""Changes of training slices: what is drawn, and how it is applied."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lib.inference.config import FlipAxis
from lib.training.config import AugmentConfig

Column = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """What happens to a batch of B slices; every array is (B,) unless said otherwise.

    Attributes:
        angle_rad: rotation within the slice.
        scale: size of the content, 1 = unchanged.
        shift: (B, 2) rows and columns, as a share of the side.
        exponent: of the intensity between the slice's lowest and highest.
        contrast: factor of the intensity.
        brightness: added to the intensity.
        noise: standard deviation.
        noise_seed: of the noise of the whole batch.
        flips: (B, 3) bool, along (slices, rows, columns).
    """

    angle_rad: Column
    scale: Column
    shift: Column
    exponent: Column
    contrast: Column
    brightness: Column
    noise: Column
    noise_seed: int
    flips: npt.NDArray[np.bool_]


def draw(rng: np.random.Generator, config: AugmentConfig, count: int) -> Draw:
    """Changes of `count` slices, uniform within the ranges of the config."""

    def uniform(largest: float, *shape: int) -> Column:
        return rng.uniform(-largest, largest, (count, *shape)).astype(np.float32)

    axes: tuple[FlipAxis, ...] = ("slices", "rows", "columns")
    return Draw(
        angle_rad=np.deg2rad(uniform(config.rotate_deg)),
        scale=np.exp(uniform(np.log1p(config.scale))),
        shift=uniform(config.translate, 2),
        exponent=np.exp(uniform(np.log1p(config.gamma))),
        contrast=np.exp(uniform(np.log1p(config.contrast))),
        brightness=uniform(config.brightness),
        noise=np.abs(uniform(config.noise)),
        noise_seed=int(rng.integers(2**31)),
        flips=np.stack([(rng.random(count) < 0.5) & (axis in config.flips) for axis in axes], axis=1),
    )


def apply(images: Tensor, classes: Tensor, drawn: Draw) -> tuple[Tensor, Tensor]:
    """Changed images (B, in, H, W) and classes (B, H, W); the input stays as it is."""
    images, classes = _flip(images, classes, drawn)
    images, classes = _move(images, classes, drawn)
    return _change_intensities(images, drawn), classes


def _flip(images: Tensor, classes: Tensor, drawn: Draw) -> tuple[Tensor, Tensor]:
    if not drawn.flips.any():
        return images, classes
    pairs = [
        (image.flip(axes) if (axes := np.flatnonzero(flips).tolist()) else image, _flip_plane(plane, flips))
        for image, plane, flips in zip(images, classes, drawn.flips, strict=True)
    ]
    return torch.stack([image for image, _ in pairs]), torch.stack([plane for _, plane in pairs])


def _flip_plane(plane: Tensor, flips: npt.NDArray[np.bool_]) -> Tensor:
    axes = np.flatnonzero(flips[1:]).tolist()  # the slice axis does not exist in a plane
    return plane.flip(axes) if axes else plane


def _move(images: Tensor, classes: Tensor, drawn: Draw) -> tuple[Tensor, Tensor]:
    """Rotate, scale and shift; bilinear for images, nearest for classes; the border repeats."""
    theta = torch.from_numpy(sampling_matrices(drawn, images.shape[-2], images.shape[-1]))
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # (B, H, W, 2)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    planes = classes[:, None].float()
    planes = F.grid_sample(planes, grid, mode="nearest", padding_mode="border", align_corners=False)
    return moved, planes[:, 0].long()


def sampling_matrices(drawn: Draw, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """(B, 2, 3) matrices for affine_grid: output to input positions, (x, y) in [-1, 1].

    The rotation is one of pixels, so it is conjugated with the sides of a plane that is not square.
    """
    cos, sin = np.cos(drawn.angle_rad) / drawn.scale, np.sin(drawn.angle_rad) / drawn.scale
    aspect = rows / columns
    theta = np.empty((len(cos), 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 0, 1] = cos, -sin * aspect
    theta[:, 1, 0], theta[:, 1, 1] = sin / aspect, cos
    theta[:, :, 2] = -2 * drawn.shift[:, ::-1]
    return theta


def _change_intensities(images: Tensor, drawn: Draw) -> Tensor:
    def column(values: Column) -> Tensor:
        return torch.from_numpy(values)[:, None, None, None]  # (B, 1, 1, 1)

    low = images.amin(dim=(1, 2, 3), keepdim=True)
    span = (images.amax(dim=(1, 2, 3), keepdim=True) - low).clamp_min(1e-6)
    curved = ((images - low) / span) ** column(drawn.exponent) * span + low
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(drawn.noise_seed))
    return curved * column(drawn.contrast) + column(drawn.brightness) + noise * column(drawn.noise)
