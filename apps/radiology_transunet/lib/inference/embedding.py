"""One embedding of a volume from those of its slices or patches.

Only those that hold the body count: the air above and below a patient says how a scan was planned, not what it shows,
and a mean over all would move with it.
"""

import numpy as np
import numpy.typing as npt

from lib.core.body import body_slices
from lib.core.values import Volume
from lib.inference.preprocess import Placement
from lib.inference.windows import Windows

FloatArray = npt.NDArray[np.float64]


def image_weights(volume: Volume, placement: Placement, windows: Windows | None) -> FloatArray:
    """(n,) weight of each image of a network in the embedding of a volume; they sum to 1.

    Slices that hold the body count alike, others not at all. A patch counts by the share of its slices that hold it.
    Where nothing does (air, padding, a constant) all images count alike.

    Args:
        volume: what is embedded.
        placement: of its planes.
        windows: of a network of patches, in their order; None for a network of slices.
    """
    planes = _body_planes(volume, placement).astype(np.float64)
    if windows is not None:
        depths, rows, columns = windows.starts
        shares = [planes[start : start + windows.patch[0]].mean() for start in depths]
        planes = np.repeat(shares, len(rows) * len(columns))
    total = planes.sum()
    return planes / total if total else np.full(len(planes), 1 / len(planes))


def weighted_mean(embeddings: npt.NDArray[np.float32], weights: FloatArray) -> npt.NDArray[np.float32]:
    """The mean (d,) of embeddings (n, d); rows without weight do not count, whatever they hold."""
    counted = weights > 0
    return np.asarray(np.average(embeddings[counted], axis=0, weights=weights[counted]), dtype=np.float32)


def _body_planes(volume: Volume, placement: Placement) -> npt.NDArray[np.bool_]:
    """(S,) of the padded planes: whether any slice that a plane is made of holds the body."""
    slices = body_slices(volume)
    read = slices[::-1] if placement.orientation.flips[0] else slices
    ends = np.arange(placement.resampled[0] + 1) * (placement.native[0] / placement.resampled[0])
    first, last = np.floor(ends[:-1]).astype(np.intp), np.ceil(ends[1:]).astype(np.intp)
    planes = np.zeros(placement.padded[0], dtype=np.bool_)
    planes[placement.inside[0]] = [bool(read[a:b].any()) for a, b in zip(first, last, strict=True)]
    return planes
