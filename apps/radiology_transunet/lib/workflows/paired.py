"""One-sided bounds of a mean difference by bootstrap over patients. Pure: arrays and a seed in, numbers out.

Two models are measured on the same patients; what is resampled are the patients with all their labels, so that labels
that go together stay together.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]

POWER = 0.8
"""Probability with which the number of patients that is asked for would show what is to be shown."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference over patients, challenger minus champion.

    Attributes:
        name: of the label, or of the mean.
        patients: that have a value.
        champion: its mean over them; None without patients.
        challenger: its mean over them; None without patients.
        difference: mean difference; None without patients.
        lower: one-sided bound: the true difference is above it but for the error rate; None below two patients.
        upper: the same from the other side.
        floor: what `lower` must exceed.
        needed: patients that would show it for a challenger that equals the champion, at the spread that was seen (of a
            gain: for the gain that was seen); None where the spread cannot tell.
        against: version that the challenger is held against; None = the champion.
    """

    name: str
    patients: int
    champion: float | None
    challenger: float | None
    difference: float | None
    lower: float | None
    upper: float | None
    floor: float
    needed: int | None = None
    against: int | None = None

    @property
    def holds(self) -> bool:
        """Whether the bound lies above the floor."""
        return self.lower is not None and self.lower > self.floor


def by_patient(values: FloatArray, patients: tuple[str, ...]) -> FloatArray:
    """Means (n_patients, n_labels) of (n_cases, n_labels) over the cases of each patient that have a value, else NaN.

    Patients come in the order of their names.
    """
    names, place = np.unique(np.array(patients, dtype=np.str_), return_inverse=True)
    member = (place == np.arange(len(names))[:, None]).astype(np.float64)
    return _ratio(member @ np.nan_to_num(values), member @ ~np.isnan(values))


def right_where_empty(values: FloatArray, other: FloatArray) -> FloatArray:
    """Dice with 1 where it has no value and that of the other model has one.

    Nothing is there and nothing was found, where the other model finds what is not there: that is right.
    """
    return np.asarray(np.where(np.isnan(values) & ~np.isnan(other), 1.0, values), dtype=np.float64)


def present_means(values: FloatArray) -> FloatArray:
    """Means (n_labels,) of (n, n_labels) over the values that are there, NaN where none is."""
    return _ratio(np.nan_to_num(values).sum(axis=0), (~np.isnan(values)).sum(axis=0).astype(np.float64))


def mean_of_labels(values: FloatArray) -> FloatArray:
    """Means over labels: (..., n_labels) to (...); NaN where no label has a value."""
    there = ~np.isnan(values)
    return _ratio(np.nan_to_num(values).sum(axis=-1), there.sum(axis=-1).astype(np.float64))


def resampled_means(values: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Means of each label (resamples, n_labels) over patients drawn with replacement; NaN where none drawn has one.

    Args:
        values: (n_patients, n_labels), NaN where a patient does not show a label.
        resamples: how many.
        seed: of the draws; the same for all labels.
    """
    count = len(values)
    if not count:
        return np.full((resamples, values.shape[1]), np.nan)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    return _ratio(drawn @ np.nan_to_num(values), drawn @ ~np.isnan(values))


def bound(means: FloatArray, patients: int, alpha: float) -> float | None:
    """The lower one-sided bound of a mean from its bootstrap distribution; None below two patients.

    The expanded percentile of Hesterberg ("What Teachers Should Know About the Bootstrap", The American Statistician
    69, 2015, section 5.3): plain percentiles are too narrow by sqrt((n - 1) / n) and by normal instead of t quantiles.

    Args:
        means: (resamples,) of the statistic; NaN are left out.
        patients: number of patients behind it.
        alpha: error rate, in (0, 0.5].
    """
    found = means[~np.isnan(means)]
    if patients < 2 or not len(found):
        return None
    quantile = math.sqrt(patients / (patients - 1)) * special.stdtrit(patients - 1, alpha)
    return float(np.quantile(found, special.ndtr(quantile)))


def patients_needed(spread: float, distance: float, alpha: float) -> int | None:
    """Patients that show a distance from the floor with the power of 0.8, by normal approximation.

    Args:
        spread: standard deviation of the differences between patients.
        distance: of the true difference from the floor; None comes back unless it is positive.
        alpha: error rate.
    """
    if distance <= 0 or not math.isfinite(spread):
        return None
    quantiles = float(special.ndtri(1 - alpha) + special.ndtri(POWER))
    return max(2, math.ceil((quantiles * spread / distance) ** 2))


def _ratio(sums: FloatArray, counts: FloatArray) -> FloatArray:
    """Sums over counts, NaN where nothing was counted."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(counts > 0, sums / counts, np.nan), dtype=np.float64)
