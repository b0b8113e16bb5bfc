"""How much each label weighs in the loss: more where it is rare, and where its Dice lags.

Pure functions on counts and Dice values; a run keeps the `RunningDice` and writes it into its checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HIGHEST = 1.25
"""Largest weight of a label; the smallest is 1, so that what is gained for one is not taken from the others."""
DECAY = 0.95
"""Of the running Dice, for each batch that shows the label."""
LEAST_MISSING = 0.02
"""Of a label's Dice to 1; below it, lagging means nothing."""

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RunningDice:
    """Exponential moving average of each label's soft Dice over the batches that show it; None before the first."""

    values: tuple[float | None, ...]

    @classmethod
    def of(cls, labels: int) -> "RunningDice":
        """Before any batch."""
        return cls((None,) * labels)

    def after(self, dice: Sequence[float], shown: Sequence[bool]) -> "RunningDice":
        """After a batch with this Dice of each label, and whether the batch shows it."""
        moved = [
            old if not there else new if old is None else DECAY * old + (1 - DECAY) * new
            for old, new, there in zip(self.values, dice, shown, strict=True)
        ]
        return RunningDice(tuple(moved))


def effective_number(counts: Sequence[int], total: int) -> Weights:
    """Effective number of samples (1 - beta^n) / (1 - beta) of each label, beta = (total - 1) / total.

    Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, eq. 2. A sample is a case (for
    networks of patches) or a slice (for networks of slices) that shows the label, not a voxel: neighbouring voxels of
    one organ say nearly the same, so counting them would make every small organ rare.

    Args:
        counts: samples that show each label.
        total: samples in all.
    """
    beta = (total - 1) / total
    return np.array([(1 - beta**count) / (1 - beta) for count in counts])


def lag(running: RunningDice) -> Weights:
    """What each label's Dice misses to 1, over what the labels miss on average: above 1 = lags behind the others.

    A label that no batch has shown yet has 1.
    """
    missing = [None if dice is None else max(1 - dice, LEAST_MISSING) for dice in running.values]
    known = [value for value in missing if value is not None]
    return np.array([1.0 if value is None else value / float(np.mean(known)) for value in missing])


def label_weights(counts: Sequence[int], total: int, running: RunningDice) -> Weights:
    """Weight of each label: 1 / effective number x lag, over the median of the labels, within [1, `HIGHEST`].

    So half of the labels weigh 1, as they would without weights. A label that never occurs weighs 1 and has no part in
    the median.

    Args:
        counts: samples that show each label.
        total: samples in all.
        running: Dice so far.
    """
    occurs = np.array(counts) > 0
    weights = np.ones(len(counts))
    if occurs.any():
        raw = lag(running)[occurs] / effective_number([n for n in counts if n > 0], total)
        weights[occurs] = np.clip(raw / np.median(raw), 1.0, HIGHEST)
    return weights


def company(counts: Sequence[int]) -> Weights:
    """(labels, labels): how much the label of the column counts among those that the label of the row shares with.

    That is 1 for a label at least as common, else its share of the samples: the common labels give up nearly nothing
    of their part in the loss to a rare one, which is but one among all of them.

    Args:
        counts: samples that show each label.
    """
    numbers = np.maximum(np.asarray(counts, dtype=np.float64), 1)
    found: Weights = np.minimum(1.0, numbers[None, :] / numbers[:, None])
    return found
