"""Changes of training pictures: what is drawn, and how it is applied.

A batch holds slices: images (B, in, H, W) and classes (B, H, W); or patches: images (B, 1, S, H, W) and classes
(B, S, H, W). What is drawn are plain numbers that do not know the pictures' size; what is applied follows from them
alone, on the device where the images are. Class 255, of which the annotation says nothing, moves like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from lib.inference.config import FlipAxis
from lib.training.augment_intensity import Intensities, change
from lib.training.augment_mix import Mixing, draw_mixing, mix
from lib.training.augment_space import CONTROL_POINTS, Column, Moves, flip, move
from lib.training.config import AugmentConfig

__all__ = ["Draw", "Intensities", "Mixing", "Moves", "apply", "draw"]

FLIP_AXES: tuple[FlipAxis, ...] = ("slices", "rows", "columns")


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """What happens to a batch, in this order.

    Attributes:
        moves: where each picture is moved.
        intensities: how its intensities change.
        mixing: what it takes from another one, or None. The loss of a blended batch is w L(own classes) +
            (1 - w) L(classes of the ones before).
    """

    moves: Moves
    intensities: Intensities
    mixing: Mixing | None = None

    def only(self, numbers: Sequence[int]) -> "Draw":
        """What happens to some pictures of the batch, -1 being its last one, when these alone are changed."""
        chosen = np.asarray(numbers, dtype=np.intp)
        return replace(self, moves=self.moves.only(chosen), intensities=self.intensities.only(chosen))


def draw(rng: np.random.Generator, config: AugmentConfig, count: int, dimensions: int = 2) -> Draw:
    """Changes of `count` pictures, uniform within the ranges of the config.

    Args:
        rng: the source of chance; the order of what is taken from it is part of every seeded run: add at the end.
        config: the ranges.
        count: pictures of the batch.
        dimensions: 2 for slices, 3 for patches.
    """

    def uniform(largest: float, *shape: int) -> Column:
        return rng.uniform(-largest, largest, (count, *shape)).astype(np.float32)

    angle_rad = np.deg2rad(uniform(config.rotate_deg))
    scale = np.exp(uniform(np.log1p(config.scale)))
    shift = np.pad(uniform(config.translate, 2), ((0, 0), (1, 0)))  # slices alone move within their plane
    exponent = np.exp(uniform(np.log1p(config.gamma)))
    contrast = np.exp(uniform(np.log1p(config.contrast)))
    brightness, noise = uniform(config.brightness), np.abs(uniform(config.noise))
    noise_seed = int(rng.integers(2**31))
    flips = np.stack([(rng.random(count) < 0.5) & (axis in config.flips) for axis in FLIP_AXES], axis=1)
    tilt_rad = np.zeros((count, 2), np.float32)
    if dimensions == 3:
        shift[:, 0], tilt_rad = uniform(config.translate), np.deg2rad(uniform(config.rotate_deg, 2))
    coarseness = np.float32(1) + np.abs(uniform(config.low_resolution))
    elastic = uniform(config.elastic, dimensions, *[CONTROL_POINTS] * dimensions) if config.elastic else None
    moves = Moves(angle_rad, scale, shift, flips, tilt_rad, elastic)
    intensities = Intensities(exponent, contrast, brightness, noise, noise_seed, coarseness)
    if config.share < 1:
        moves, intensities = moves.for_some(rng, config.share), intensities.for_some(rng, config.share)
    return Draw(moves, intensities, draw_mixing(rng, config, dimensions))


def apply(images: Tensor, classes: Tensor, drawn: Draw) -> tuple[Tensor, Tensor]:
    """Changed images (B, in, H, W) or (B, 1, S, H, W) and classes (B, *space); the input stays as it is."""
    images, classes = flip(images, classes, drawn.moves.flips)
    images, classes = move(images, classes, drawn.moves)
    images = change(images, drawn.intensities)
    return (images, classes) if drawn.mixing is None else mix(images, classes, drawn.mixing)
