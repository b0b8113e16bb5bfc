"""How the intensities of training pictures are changed: coarser sampling, curve, contrast, brightness, noise."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lib.training.augment_space import Column, thickness

MIN_SPAN = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Intensities:
    """What happens to the intensities of B pictures; every array is (B,).

    Attributes:
        exponent: of the intensity between the picture's lowest and highest.
        contrast: factor of the intensity.
        brightness: added to the intensity.
        noise: standard deviation.
        noise_seed: of the noise of the whole batch.
        coarseness: factor by which the picture is sampled more coarsely and back; 1 = not at all.
        noise_among: pictures of the whole batch that have noise, and which of them these ones' are; None = the same.
    """

    exponent: Column
    contrast: Column
    brightness: Column
    noise: Column
    noise_seed: int
    coarseness: Column
    noise_among: tuple[int, tuple[int, ...]] | None = None

    def only(self, numbers: npt.NDArray[np.intp]) -> "Intensities":
        """The changes of some of the pictures; noise stays what it is in the whole batch."""
        noisy = np.flatnonzero(self.noise)
        wanted = np.arange(len(self.noise))[numbers]
        places = np.searchsorted(noisy, [number for number in wanted if self.noise[number]])
        return Intensities(
            exponent=self.exponent[numbers],
            contrast=self.contrast[numbers],
            brightness=self.brightness[numbers],
            noise=self.noise[numbers],
            noise_seed=self.noise_seed,
            coarseness=self.coarseness[numbers],
            noise_among=(len(noisy), tuple(places.tolist())),
        )

    def for_some(self, rng: np.random.Generator, share: float) -> "Intensities":
        """The same changes, each of them for that share of the pictures alone."""
        curved, spread, lifted, noisy, coarse = rng.random((5, len(self.noise))) < share
        one = np.float32(1)
        return replace(
            self,
            exponent=np.where(curved, self.exponent, one),
            contrast=np.where(spread, self.contrast, one),
            brightness=self.brightness * lifted,
            noise=self.noise * noisy,
            coarseness=np.where(coarse, self.coarseness, one),
        )


def change(images: Tensor, drawn: Intensities) -> Tensor:
    """Images (B, in, H, W) or (B, 1, S, H, W) with other intensities."""
    images = _coarsen(images, drawn.coarseness)
    images = _curve(images, drawn.exponent)
    if (drawn.contrast != 1).any():
        images = images * _column(drawn.contrast, images)
    if drawn.brightness.any():
        images = images + _column(drawn.brightness, images)
    return _add_noise(images, drawn)


def _coarsen(images: Tensor, coarseness: Column) -> Tensor:
    """Average over coarser voxels and interpolate back; across the slices of a patch less, see `thickness`."""
    chosen = np.flatnonzero(coarseness != 1)
    if not chosen.size:
        return images
    images = images.clone()
    space = images.shape[2:]
    mode = "bilinear" if len(space) == 2 else "trilinear"
    for number in chosen.tolist():
        extra = float(coarseness[number]) - 1
        factors = [1 + extra] * len(space)
        if len(space) == 3:
            factors[0] = 1 + extra * thickness(space)
        sides = [max(1, round(side / factor)) for side, factor in zip(space, factors, strict=True)]
        coarse = F.interpolate(images[number : number + 1], size=sides, mode="area")
        images[number] = F.interpolate(coarse, size=list(space), mode=mode, align_corners=False)[0]
    return images


def _curve(images: Tensor, exponent: Column) -> Tensor:
    """Raise to the exponent, between the lowest (0) and the highest (1) intensity of each picture."""
    chosen = np.flatnonzero(exponent != 1)
    if not chosen.size:
        return images
    if chosen.size < len(images):
        numbers = torch.from_numpy(chosen).to(images.device)
        return images.index_copy(0, numbers, _curve(images[numbers], exponent[chosen]))
    axes = tuple(range(1, images.ndim))
    low = images.amin(dim=axes, keepdim=True)
    span = (images.amax(dim=axes, keepdim=True) - low).clamp_min(MIN_SPAN)
    return ((images - low) / span) ** _column(exponent, images) * span + low


def _add_noise(images: Tensor, drawn: Intensities) -> Tensor:
    """Gaussian noise from a generator of the images' device; pictures without noise take no part in it."""
    chosen: npt.NDArray[np.intp] = np.flatnonzero(drawn.noise)
    if not chosen.size:
        return images
    generator = torch.Generator(images.device).manual_seed(drawn.noise_seed)
    drawn_for, places = drawn.noise_among or (len(chosen), ())
    noise = torch.randn((drawn_for, *images.shape[1:]), generator=generator, device=images.device)
    noise = (noise[list(places)] if places else noise) * _column(drawn.noise[chosen], images)
    if len(chosen) == len(images):
        return images + noise
    return images.index_add(0, torch.from_numpy(chosen).to(images.device), noise)


def _column(values: Column, images: Tensor) -> Tensor:
    """(B,) numbers as (B, 1, 1, 1) or (B, 1, 1, 1, 1) beside the images."""
    return torch.from_numpy(values).to(images.device).view(-1, *[1] * (images.ndim - 1))
