"""Entropy of class probabilities, and from its map one score for each label."""

from collections.abc import Sequence
from math import log

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from lib.core.labels import LabelSchema

BAND_MM = 3.0
"""How far beyond a predicted label, within the slice, its uncertainty is read."""
TOP_SHARE = 0.1
"""Share of a band's voxels, the most uncertain ones, whose mean entropy is the score."""

EntropyMap = npt.NDArray[np.float16]


def entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy -sum p ln p in nats of probabilities (B, C, H, W), as (B, H, W) in [0, ln C]."""
    nats: Tensor = torch.special.entr(probabilities).sum(dim=1)
    return nats.clamp(0.0, log(probabilities.shape[1]))


def as_float16(nats: npt.NDArray[np.float32], classes: int) -> EntropyMap:
    """Entropies as float16 that do not round above ln C."""
    largest = np.float16(log(classes))
    if float(largest) > log(classes):
        largest = np.nextafter(largest, np.float16(0))
    return np.minimum(nats.astype(np.float16), largest)


def label_scores(
    mask: npt.NDArray[np.uint8],
    entropies: EntropyMap,
    spacing_mm: tuple[float, float, float],
    schema: LabelSchema,
    largest_probability: Sequence[float],
) -> dict[str, float]:
    """How uncertain a prediction is about each label, in nats; larger = label first.

    The score is the mean of the highest tenth of entropies in a band: the voxels predicted as the label and those
    within `BAND_MM` of them in the same slice. Only slices that show the label count, so empty slices above and below
    change nothing (mean entropy of a whole volume would fall with them). A label that is predicted nowhere has no band;
    its score is the entropy of a coin with the largest probability that any voxel gave it: near 0 when the model is
    sure that it is absent, ln 2 when it almost appeared.

    Args:
        mask: (S, R, C) label ids.
        entropies: (S, R, C) in nats.
        spacing_mm: of (slices, rows, columns).
        schema: the labels.
        largest_probability: of each label in the schema's order, over the volume.
    """
    radius = max(1, round(BAND_MM / spacing_mm[1])), max(1, round(BAND_MM / spacing_mm[2]))
    boxes = ndimage.find_objects(mask, max_label=255)
    scores = {}
    for label, probability in zip(schema, largest_probability, strict=True):
        box = boxes[label.id - 1]
        if box is None:
            scores[label.name] = coin_entropy(probability)
        else:
            grown = (box[0], _grown(box[1], radius[0]), _grown(box[2], radius[1]))
            scores[label.name] = top_mean(entropies[grown][band(mask[grown] == label.id, radius)])
    return scores


def band(region: npt.NDArray[np.bool_], radius: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The region (S, R, C) and what lies within `radius` (rows, columns) of it in the same slice."""
    wide = region.astype(np.uint8)
    for axis, pixels in zip((1, 2), radius, strict=True):
        wide = ndimage.maximum_filter1d(wide, 2 * pixels + 1, axis=axis, mode="constant")
    return np.asarray(wide > 0)


def top_mean(values: npt.NDArray[np.float16]) -> float:
    """Mean of the highest `TOP_SHARE` of values (n,), of at least one."""
    count = max(1, round(TOP_SHARE * values.size))
    return float(np.partition(values, values.size - count)[values.size - count :].mean(dtype=np.float64))


def coin_entropy(probability: float) -> float:
    """Entropy in nats of an event of that probability."""
    p = min(max(float(probability), 0.0), 1.0)
    return -sum(x * log(x) for x in (p, 1.0 - p) if x > 0)


def _grown(side: slice, pixels: int) -> slice:
    return slice(max(0, side.start - pixels), side.stop + pixels)
