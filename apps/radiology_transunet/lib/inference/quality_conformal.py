"""Bounds that hold for a new patient, from what was seen of others: conformal prediction over patients.

A patient may have many series, and each series many labels: they are no independent draws. Each patient counts once,
and what was seen of one shares its weight (Lee, Barber and Willett, "Distribution-free inference with hierarchical
data", arXiv:2306.06342, sec. 3). One value a patient makes this the k-th smallest of n with k = ceil((n + 1) level).
"""

from collections.abc import Sequence
from math import ceil, inf

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
ROUNDING = 1e-9
"""Weights such as 1/3 do not add up exactly."""


def patients_needed(level: float) -> int:
    """Patients from which on a bound of that level is finite: the smallest n with ceil((n + 1) level) <= n."""
    return ceil(level / (1 - level) - ROUNDING)


def bound(values: FloatArray, patients: IntArray, level: float) -> float:
    """The least that a value of a new patient stays below with a probability of at least `level`.

    Args:
        values: (n,), of the patients seen.
        patients: (n,) number of the patient of each.
        level: in (0, 1).

    Returns:
        One of the values; infinite where there are too few patients.
    """
    if not len(values):
        return inf
    _, owner, each = np.unique(patients, return_inverse=True, return_counts=True)
    weights = 1 / ((len(each) + 1) * each[owner])
    order = np.argsort(values, kind="stable")
    enough = np.cumsum(weights[order]) >= level - ROUNDING
    return float(values[order][int(enough.argmax())]) if enough.any() else inf


def divided(patients: Sequence[int], folds: int, split_from: int) -> list[tuple[frozenset[int], frozenset[int]]]:
    """Who is learned from and who is held out, patients whole.

    Few patients are each held out once, in as many folds (CV+, Barber et al., "Predictive inference with the
    jackknife+", Annals of Statistics 2021, arXiv:1905.02928): an interval of level 1 - a then holds the value of a
    new patient with a probability of at least 1 - 2a, and in practice of about 1 - a. Of many, half is held out once,
    which is split-conformal: at least 1 - a.

    Args:
        patients: numbers, each once.
        folds: at most.
        split_from: patients that are many.
    """
    everyone = frozenset(patients)
    if len(patients) >= split_from:
        held_out = frozenset(patients[1::2])
        return [(everyone - held_out, held_out)]
    count = min(folds, len(patients))
    parts = [frozenset(patients[number::count]) for number in range(count)]
    return [(everyone - part, part) for part in parts if everyone - part]
