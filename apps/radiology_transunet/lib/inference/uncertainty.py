"""Maps of uncertainty from class probabilities, and the band in which a label's uncertainty is read."""

from math import log

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

BAND_MM = 3.0
"""How far beyond a predicted label, within the slice, its uncertainty is read."""
EntropyMap = npt.NDArray[np.float16]
BoolArray = npt.NDArray[np.bool_]


def entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy -sum p ln p in nats of probabilities (B, C, H, W), as (B, H, W) in [0, ln C]."""
    nats: Tensor = torch.special.entr(probabilities).sum(dim=1)
    return nats.clamp(0.0, log(probabilities.shape[1]))


def margin(probabilities: Tensor) -> Tensor:
    """1 - (p1 - p2) of the two largest probabilities of (B, C, H, W), as (B, H, W) in [0, 1]; 1 = cannot decide."""
    first, *others = probabilities.unbind(dim=1)
    first, second = first.clone(), torch.zeros_like(first)
    for following in others:  # a pass a class: topk along this axis takes many times as long
        torch.maximum(second, torch.minimum(first, following), out=second)
        torch.maximum(first, following, out=first)
    return (1 - (first - second)).clamp(0.0, 1.0)


def as_float16(nats: npt.NDArray[np.float32], classes: int) -> EntropyMap:
    """Entropies as float16 that do not round above ln C."""
    largest = np.float16(log(classes))
    if float(largest) > log(classes):
        largest = np.nextafter(largest, np.float16(0))
    return np.minimum(nats.astype(np.float16), largest)


def band(region: npt.NDArray[np.bool_], radius: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The region (S, R, C) and what lies within `radius` (rows, columns) of it in the same slice."""
    wide = region.astype(np.uint8)
    for axis, pixels in zip((1, 2), radius, strict=True):
        wide = ndimage.maximum_filter1d(wide, 2 * pixels + 1, axis=axis, mode="constant")
    return np.asarray(wide > 0)


def boundary(region: npt.NDArray[np.bool_], wide: npt.NDArray[np.bool_], radius: tuple[int, int]) -> BoolArray:
    """What of a region's band `wide` lies within `radius` of its edge, on both sides; the image's edge is none."""
    core = region.astype(np.uint8)
    for axis, pixels in zip((1, 2), radius, strict=True):
        core = ndimage.minimum_filter1d(core, 2 * pixels + 1, axis=axis, mode="nearest")
    return np.asarray(wide & (core == 0))


def band_radius(spacing_mm: tuple[float, float, float]) -> tuple[int, int]:
    """Rows and columns of a band on a grid with that spacing of (slices, rows, columns)."""
    return max(1, round(BAND_MM / spacing_mm[1])), max(1, round(BAND_MM / spacing_mm[2]))


def coin_entropy(probability: float) -> float:
    """Entropy in nats of an event of that probability."""
    p = min(max(float(probability), 0.0), 1.0)
    return sum(-x * log(x) for x in (p, 1.0 - p) if 0 < x < 1)
