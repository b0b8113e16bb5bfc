"""Has a level fallen? A one-sided CUSUM chart. Pure: figures in, sums and alarm out."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

SMALLEST_SPREAD = 0.01
"""Dice: cases that agree by chance to the last digit shall not make every later one an alarm."""


@dataclass(frozen=True, slots=True)
class Cusum:
    """A chart of the values after those that the reference was made of.

    Attributes:
        reference: mean of the first values.
        spread: their standard deviation, at least `SMALLEST_SPREAD`.
        sums: one for each later value, in standard deviations; 0 = at the reference or above.
        threshold: a sum above it is an alarm.
        since: number of the value with which the present alarm began, counted from 0 over all values; None = no alarm.
    """

    reference: float
    spread: float
    sums: tuple[float, ...]
    threshold: float
    since: int | None

    @property
    def alarm(self) -> bool:
        """Whether the level has fallen."""
        return self.since is not None


def falling(values: Sequence[float], first: int, slack: float, threshold: float) -> Cusum | None:
    """The lower one-sided CUSUM: S_i = max(0, S_(i-1) + (reference - x_i) / spread - slack), S_0 = 0.

    Page, "Continuous inspection schemes", Biometrika 41 (1954); in the standardised form of Montgomery, "Introduction
    to statistical quality control", section 9.1. With slack 0.5 and threshold 5 a level that stays gives a false alarm
    once in about 930 values, and one that falls by a standard deviation is found after about 10, where mean and spread
    are known; from few first values they are not, and alarms come more often.

    Args:
        values: in the order of time.
        first: how many of them make the reference, at least 2.
        slack: in standard deviations; half of the fall that shall be found.
        threshold: in standard deviations.

    Returns:
        None while there are not more than `first` values.
    """
    if len(values) <= first:
        return None
    reference = fmean(values[:first])
    spread = max(stdev(values[:first]), SMALLEST_SPREAD)
    sums: list[float] = []
    since: int | None = None
    for number, value in enumerate(values[first:], start=first):
        sums.append(max(0.0, (sums[-1] if sums else 0.0) + (reference - value) / spread - slack))
        if sums[-1] <= threshold:
            since = None
        elif since is None:
            since = number
    return Cusum(reference, spread, tuple(sums), threshold, since)
