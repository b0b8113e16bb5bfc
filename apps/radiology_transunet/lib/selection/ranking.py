"""Which case next, from scores alone: score, then choose.

A ranking depends on the cases and the seed, never on the order in which the cases come. Equal
scores are ordered by a keyed hash of the case's id, which is a seeded draw tied to the case.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.core.errors import InvalidInput
from lib.selection.arrays import BoolArray, FloatArray, IntArray, Keys
from lib.selection.draws import keys, uniform

NEVER = "never scored: no model has seen it"


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """An order of cases.

    Attributes:
        order: (n,) indices of the cases, the one to label first in front; read-only.
        scores: (n,) score by case, larger = label first; NaN = the case was never scored; read-only.
        reasons: why each case stands where it stands, in words, by case.

    Raises:
        InvalidInput: an order that is none, or other numbers of scores or reasons.
    """

    order: IntArray
    scores: FloatArray
    reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        order = np.array(self.order, dtype=np.int64)
        scores = np.array(self.scores, dtype=np.float64)
        count = len(self.reasons)
        if scores.shape != (count,) or not np.array_equal(np.sort(order), np.arange(count)):
            raise InvalidInput(
                f"an order of {count} cases names each index once and each case has a score, "
                f"got {order.tolist()[:8]} and {scores.shape}"
            )
        order.flags.writeable = scores.flags.writeable = False
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "scores", scores)

    def __len__(self) -> int:
        return len(self.reasons)

    def ranked(self, ids: Sequence[str]) -> list[tuple[str, float, str]]:
        """(id, score, reason) of each case, the one to label first in front.

        Args:
            ids: the ids that the ranking was made from, in the same order.

        Raises:
            InvalidInput: another number of ids.
        """
        if len(ids) != len(self):
            raise InvalidInput(f"the ranking is of {len(self)} cases, got {len(ids)} ids")
        return [(ids[i], float(self.scores[i]), self.reasons[i]) for i in self.order.tolist()]


def random_order(ids: Sequence[str], seed: int) -> Ranking:
    """Cases in an order drawn at random; a case that joins or leaves does not move the others.

    Args:
        ids: of the cases, each once.
        seed: of the draw.

    Raises:
        InvalidInput: an id that occurs twice.
    """
    draws = uniform(keys(ids, seed))
    order = np.argsort(draws, kind="stable")
    reasons = (f"drawn at random (seed {seed})",) * len(draws)
    return Ranking(order, 1.0 - draws, reasons)


def by_mean(
    ids: Sequence[str],
    scores: FloatArray,
    seed: int,
    labels: Sequence[str] = (),
    quantity: str = "entropy",
    unit: str = " nats",
) -> Ranking:
    """The cases first whose mean score over the labels is largest.

    The mean is over the labels that have a value, so that one without a value neither helps nor hurts. A case
    without any value was never scored: such cases come last, in random order.

    Args:
        ids: of the cases, each once.
        scores: (n_cases, n_labels); what is not finite counts as no value.
        seed: orders equal scores.
        labels: names of the labels, for the reasons.
        quantity: what the scores are, for the reasons.
        unit: of the scores, with a space before it, for the reasons.

    Raises:
        InvalidInput: an id that occurs twice, other numbers of cases or labels.
    """
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != len(ids) or (labels and matrix.shape[1] != len(labels)):
        raise InvalidInput(
            f"scores must be ({len(ids)} cases, {len(labels) or 'any number of'} labels), got shape {matrix.shape}"
        )
    known = np.isfinite(matrix)
    means = mean_of_known(matrix, known)
    order = descending(means, keys(ids, seed))
    return Ranking(order, means, _reasons(means, matrix, known, labels, f"mean {quantity} {{:.3f}}{unit}"))


def falling(order: IntArray) -> FloatArray:
    """(n,) scores in (0, 1] that fall along an order which has none of its own."""
    scores = np.empty(len(order), dtype=np.float64)
    scores[order] = 1.0 - np.arange(len(order)) / max(1, len(order))
    return scores


def mean_of_known(matrix: FloatArray, known: BoolArray) -> FloatArray:
    """(n,) mean of each row (n, n_labels) over what is known; NaN where nothing is."""
    counts = known.sum(axis=1)
    sums = np.where(known, matrix, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def descending(scores: FloatArray, ties: FloatArray | Keys) -> IntArray:
    """(n,) indices by falling score, equal ones by rising `ties`; NaN comes last."""
    order: IntArray = np.lexsort((ties, -np.nan_to_num(scores, neginf=-np.inf), np.isnan(scores)))
    return order


def _reasons(
    means: FloatArray, matrix: FloatArray, known: BoolArray, labels: Sequence[str], words: str
) -> tuple[str, ...]:
    if not matrix.shape[1]:
        return (NEVER,) * len(matrix)
    filled = np.where(known, matrix, -np.inf)
    tops, highest, counts = filled.argmax(axis=1), filled.max(axis=1), known.sum(axis=1)
    columns = zip(means.tolist(), counts.tolist(), tops.tolist(), highest.tolist(), strict=True)
    return tuple(
        NEVER
        if not count
        else f"{words.format(mean)} over {count} label{'s' if count != 1 else ''}"
        + (f", highest in {labels[top]} ({value:.3f})" if labels else "")
        for mean, count, top, value in columns
    )
