"""Has a level fallen? A one-sided CUSUM chart whose reference starts anew with each period of enough values. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

SMALLEST_SPREAD = 0.01
"""Dice: cases that agree by chance to the last digit shall not make every later one an alarm."""


@dataclass(frozen=True, slots=True)
class Period:
    """Values that belong together: one model version, nobody having said that a new level is as it should be.

    Attributes:
        name: for people.
        values: in the order of time.
        inherits: whether its first values are held against the reference of the period before, until it has its own.
    """

    name: str
    values: tuple[float, ...]
    inherits: bool = True


@dataclass(frozen=True, slots=True)
class Cusum:
    """A chart of the values that the reference in force was held against.

    Attributes:
        reference: mean of the first values of its period.
        spread: their standard deviation, at least `SMALLEST_SPREAD`.
        period: number of the period that the reference is of, counted from 0.
        sums: one for each value that was held against it, of whatever periods, in standard deviations; 0 = at the
            reference or above.
        threshold: a sum above it is an alarm.
        since: number of the value with which the present alarm began, counted from 0 over all values; None = no alarm.
    """

    reference: float
    spread: float
    period: int
    sums: tuple[float, ...]
    threshold: float
    since: int | None

    @property
    def last(self) -> float:
        """The sum by now."""
        return self.sums[-1] if self.sums else 0.0

    @property
    def alarm(self) -> bool:
        """Whether the level has fallen."""
        return self.since is not None


def falling(periods: Sequence[Period], first: int, slack: float, threshold: float) -> Cusum | None:
    """The lower one-sided CUSUM: S_i = max(0, S_(i-1) + (reference - x_i) / spread - slack), S_0 = 0.

    Page, "Continuous inspection schemes", Biometrika 41 (1954); in the standardised form of Montgomery, "Introduction
    to statistical quality control", section 9.1. With slack 0.5 and threshold 5 a level that stays gives a false alarm
    once in about 930 values, and one that falls by a standard deviation is found after about 10, where mean and spread
    are known; from few first values they are not, and alarms come more often.

    The first values of each period become the reference, with which the sum starts at 0. Until it has them, an
    inheriting period is held against the reference before, and the sum goes on: one reference is one chart, however
    many versions are held against it. Would each start at 0, frequent ones would all end before their sum is an alarm.
    Of an alarm a new period inherits the threshold and no more. So it stands until there is a value, goes on at once
    where that is low again, and ends within few that are as they should be, however long it had lasted. While it stands
    its reference stays in force: a fallen level does not become the reference by lasting.

    Args:
        periods: in the order of time.
        first: how many values make a reference, at least 2.
        slack: in standard deviations; half of the fall that shall be found.
        threshold: in standard deviations.

    Returns:
        None while there is no reference.
    """
    chart: Cusum | None = None
    before = 0
    for number, period in enumerate(periods):
        chart = chart if period.inherits else None
        if chart is not None:
            chart = _went_on(chart, period.values[:first], before, slack, min(chart.last, threshold))
        if len(period.values) >= first and not (chart and chart.alarm):
            own = period.values[:first]
            chart = Cusum(fmean(own), max(stdev(own), SMALLEST_SPREAD), number, (), threshold, None)
        if chart is not None:
            chart = _went_on(chart, period.values[first:], before + first, slack, chart.last)
        before += len(period.values)
    return chart


def _went_on(chart: Cusum, values: Sequence[float], at: int, slack: float, total: float) -> Cusum:
    """The chart with more values, the first of them of that number, on top of that sum."""
    sums, since = list(chart.sums), chart.since
    for number, value in enumerate(values, start=at):
        total = max(0.0, total + (chart.reference - value) / chart.spread - slack)
        sums.append(total)
        if total <= chart.threshold:
            since = None
        elif since is None:
            since = number
    return replace(chart, sums=tuple(sums), since=since)
