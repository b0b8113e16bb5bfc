"""Which case next, from scores alone: score, then choose.

A ranking depends on the cases and the seed, never on the order in which the cases come. Equal
scores are ordered by a keyed hash of the case's id, which is a seeded draw tied to the case.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from lib.core.errors import InvalidInput

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


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


def score_matrix(scores: Sequence[Mapping[str, float]], labels: Sequence[str]) -> FloatArray:
    """Scores as (n_cases, n_labels); NaN where a case has no score for a label."""
    rows = [[case.get(label, math.nan) for label in labels] for case in scores]
    return np.array(rows, dtype=np.float64).reshape(len(scores), len(labels))


def random_order(ids: Sequence[str], seed: int) -> Ranking:
    """Cases in an order drawn at random; a case that joins or leaves does not move the others.

    Args:
        ids: of the cases, each once.
        seed: of the draw.

    Raises:
        InvalidInput: an id that occurs twice.
    """
    draws = _draws(ids, seed)
    order = np.argsort(draws, kind="stable")
    reasons = tuple(f"drawn at random (seed {seed})" for _ in ids)
    return Ranking(order, 1.0 - draws, reasons)


def by_entropy(ids: Sequence[str], scores: FloatArray, seed: int, labels: Sequence[str] = ()) -> Ranking:
    """The cases first that the model is least sure of: the largest mean entropy of the foreground.

    The score of a case is the mean over its labels that have a value, so that a label that was not found
    neither helps nor hurts. A case without any value was never scored: such cases come last,
    in random order.

    Args:
        ids: of the cases, each once.
        scores: (n_cases, n_labels) entropy in nats; what is not finite counts as no value.
        seed: orders equal scores.
        labels: names of the labels, for the reasons.

    Raises:
        InvalidInput: an id that occurs twice, other numbers of cases or labels.
    """
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != len(ids) or (labels and matrix.shape[1] != len(labels)):
        raise InvalidInput(
            f"scores must be ({len(ids)} cases, {len(labels) or 'any number of'} labels), got shape {matrix.shape}"
        )
    known = np.isfinite(matrix)
    counts = known.sum(axis=1)
    sums = np.where(known, matrix, 0.0).sum(axis=1)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    order = np.lexsort((_draws(ids, seed), -np.nan_to_num(means), counts == 0))
    reasons = tuple(_reason(mean, row, labels) for mean, row in zip(means, matrix, strict=True))
    return Ranking(order, means, reasons)


def _draws(ids: Sequence[str], seed: int) -> FloatArray:
    """A number in [0, 1) for each case, drawn from its id and the seed.

    Raises:
        InvalidInput: an id that occurs twice.
    """
    if len(set(ids)) != len(ids):
        twice = sorted({case for case in ids if ids.count(case) > 1})
        raise InvalidInput(f"each case may be ranked once, got twice: {', '.join(twice[:4])}")
    hashes = [blake2b(f"{seed}\0{case}".encode(), digest_size=8).digest() for case in ids]
    return np.array([(int.from_bytes(h, "big") >> 11) * 2.0**-53 for h in hashes], dtype=np.float64)


def _reason(mean: float, row: FloatArray, labels: Sequence[str]) -> str:
    if not math.isfinite(mean):
        return "never scored: no model has seen it, or it found nothing"
    known = np.isfinite(row)
    count = int(known.sum())
    text = f"mean entropy {mean:.3f} nats over {count} label{'s' if count != 1 else ''}"
    if not labels:
        return text
    top = int(np.argmax(np.where(known, row, -np.inf)))
    return f"{text}, highest in {labels[top]} ({row[top]:.3f})"
