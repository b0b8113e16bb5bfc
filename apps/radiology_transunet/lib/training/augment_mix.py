"""Two training pictures in one: blended (Mixup) or with a box of the other (CutMix)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lib.training.config import AugmentConfig

MIXUP_ALPHA = 0.2
"""Of the Beta distribution of the blend; Zhang et al., arXiv:1710.09412, use 0.1 to 0.4."""
CUTMIX_ALPHA = 1.0
"""Yun et al., arXiv:1905.04899."""


@dataclass(frozen=True, slots=True)
class Mixing:
    """What each picture of a batch takes from the one before it.

    Attributes:
        weight: share of the picture that stays its own, in [0, 1].
        corner: where the box lies: per axis of the picture, 0 = at the first voxel, 1 = at the last possible one; empty
            = the pictures are blended and there is no box.
    """

    weight: float
    corner: tuple[float, ...] = ()

    @property
    def blends(self) -> bool:
        """Whether voxels have two classes: the picture's own, and that of the one before it."""
        return not self.corner

    def box(self, space: torch.Size) -> tuple[slice, ...]:
        """The voxels of a picture (*space) that come from the other one: a share of 1 - weight, the sides alike.

        The box lies inside the picture, so that its share is what was drawn; the paper clips it at the border.
        """
        sides = [round(side * (1 - self.weight) ** (1 / len(space))) for side in space]
        firsts = [round(c * (n - side)) for c, n, side in zip(self.corner, space, sides, strict=True)]
        return tuple(slice(first, first + side) for first, side in zip(firsts, sides, strict=True))


def draw_mixing(rng: np.random.Generator, config: AugmentConfig, dimensions: int) -> Mixing | None:
    """How the pictures of a step are mixed, or None: as often as the config says, and never in both ways."""
    if config.mixup == 0 and config.cutmix == 0:
        return None
    chance = rng.random()
    if chance < config.mixup:
        return Mixing(float(rng.beta(MIXUP_ALPHA, MIXUP_ALPHA)))
    if chance < config.mixup + config.cutmix:
        return Mixing(float(rng.beta(CUTMIX_ALPHA, CUTMIX_ALPHA)), tuple(rng.random(dimensions).tolist()))
    return None


def before(values: Tensor) -> Tensor:
    """The partners (B, ...) of the pictures or classes of a batch: each one's is the one before it."""
    return values.roll(1, dims=0)


def mix(images: Tensor, classes: Tensor, mixing: Mixing) -> tuple[Tensor, Tensor]:
    """Mixed images (B, C, *space) and classes (B, *space); blended pictures keep their own classes."""
    if mixing.blends:
        return mixing.weight * images + (1 - mixing.weight) * before(images), classes
    inside = torch.zeros(classes.shape[1:], dtype=torch.bool, device=images.device)
    inside[mixing.box(classes.shape[1:])] = True
    return torch.where(inside, before(images), images), torch.where(inside, before(classes), classes)
