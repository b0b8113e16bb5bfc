"""Champion, challenger and those that served before, measured on the same promotion cases: what the gate looks at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from lib.core.errors import InvalidInput
from lib.workflows.paired import (
    FloatArray,
    Interval,
    bound,
    by_patient,
    mean_of_labels,
    patients_needed,
    present_means,
    resampled_means,
    right_where_empty,
)

MEAN_OF = "mean of the common labels"
NEWEST_OF = "mean on the newest cases"


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two models on the same cases.

    Attributes:
        version: of the champion.
        labels: names, in the order of the columns.
        common: those whose mean tells of a gain.
        patients: of each case.
        champion: Dice (n_cases, n_labels) in [0, 1]; NaN where neither annotation nor prediction shows the label.
        challenger: the same.
        served: the same of versions that served before the champion, by number.
        newest: (n_cases,) whether the case came after the champion was trained.
        calibration_error: expected one of champion and challenger, in [0, 1]; None where it was not measured.
        seconds: a case takes champion and challenger; None where it was not measured.
        golden: by name of a golden case, the largest loss of Dice of a label, challenger minus champion; in its place
            why, in words, where it was not measured.

    Raises:
        InvalidInput: arrays of other shapes, or a common label that is none.
    """

    version: int
    labels: tuple[str, ...]
    common: tuple[str, ...]
    patients: tuple[str, ...]
    champion: FloatArray
    challenger: FloatArray
    newest: npt.NDArray[np.bool_]
    calibration_error: tuple[float | None, float | None] = (None, None)
    seconds: tuple[float | None, float | None] = (None, None)
    golden: Mapping[str, float | str] = field(default_factory=dict)
    served: Mapping[int, FloatArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = len(self.patients), len(self.labels)
        models = self.champion.shape, self.challenger.shape, *(dice.shape for dice in self.served.values())
        fits = set(models) == {wanted} and self.newest.shape == wanted[:1]
        if not fits or not set(self.common) <= set(self.labels):
            raise InvalidInput(
                f"a comparison needs Dice {wanted} of each model, {wanted[:1]} marks of the newest, and common labels "
                f"among {list(self.labels)}, got {models}, {self.newest.shape} and {list(self.common)}"
            )

    @property
    def distinct_patients(self) -> int:
        """How many there are."""
        return len(set(self.patients))

    def paired(self, before: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
        """Dice of champion and challenger by patient (n_patients, n_labels), NaN in both or in neither.

        A model that rightly finds nothing, where the other one finds what is not there, has a Dice of 1.

        Args:
            before: Dice of another version, in the place of the champion's.
        """
        before = self.champion if before is None else before
        former, challenger = right_where_empty(before, self.challenger), right_where_empty(self.challenger, before)
        return by_patient(former, self.patients), by_patient(challenger, self.patients)

    def only_newest(self) -> "Comparison | None":
        """The same on the newest cases alone; None without any."""
        if not self.newest.any():
            return None
        patients = tuple(patient for patient, new in zip(self.patients, self.newest, strict=True) if new)
        champion, challenger = self.champion[self.newest], self.challenger[self.newest]
        marks = self.newest[self.newest]
        return Comparison(self.version, self.labels, self.common, patients, champion, challenger, marks)


def label_intervals(of: Comparison, floor: float, alpha: float, resamples: int, seed: int) -> tuple[Interval, ...]:
    """The difference of each label, with the patients that would show that it exceeds the floor."""
    return _intervals(of.labels, of.paired(), floor, alpha, (resamples, seed))


def anchor_intervals(of: Comparison, floor: float, alpha: float, resamples: int, seed: int) -> tuple[Interval, ...]:
    """The difference of each label from the version that had it best of all that served before the champion.

    Also where the champion was measured to be better still: the same few patients tell that, and a test that a lucky
    champion spares the challenger errs more often than alpha. What the challenger lacks most is what it lacks to the
    best, so this one test stands for those against all of them.
    """
    versions = tuple(sorted(of.served))
    if not versions:
        return ()
    pairs = [of.paired(of.served[version]) for version in versions]
    gains = np.array([present_means(after - before) for before, after in pairs])  # (n_versions, n_labels)
    best = np.where(np.isnan(gains), np.inf, gains).argmin(axis=0)
    columns = range(len(of.labels))
    before, after = (np.stack([pairs[best[c]][side][:, c] for c in columns], axis=1) for side in (0, 1))
    found = _intervals(of.labels, (before, after), floor, alpha, (resamples, seed))
    return tuple(replace(found[c], against=versions[best[c]]) for c in columns if found[c].patients)


def mean_interval(of: Comparison, name: str, alpha: float, resamples: int, seed: int) -> Interval:
    """The difference of the mean over the common labels, with the patients that would show the gain that was seen."""
    columns = [of.labels.index(label) for label in of.common]
    champion, challenger = (values[:, columns] for values in of.paired())
    differences = challenger - champion
    count = int((~np.isnan(differences)).any(axis=1).sum()) if columns else 0
    if not count:
        return Interval(name, 0, None, None, None, None, None, 0.0)
    means = mean_of_labels(resampled_means(differences, resamples, seed))
    lower, upper = _bounds(means, count, alpha)
    gain = _mean_of_means(differences)
    needed = patients_needed(float(np.nanstd(means)) * count**0.5, gain, alpha)
    seen = _mean_of_means(champion), _mean_of_means(challenger), gain
    return Interval(name, count, *seen, lower, upper, 0.0, needed)


def _intervals(
    names: Sequence[str], pair: tuple[FloatArray, FloatArray], floor: float, alpha: float, draws: tuple[int, int]
) -> tuple[Interval, ...]:
    """The difference of each label between two models, by patient (n_patients, n_labels) each."""
    before, after = pair
    differences = after - before
    means = resampled_means(differences, *draws)
    found = []
    for column, name in enumerate(names):
        there = ~np.isnan(differences[:, column])
        count = int(there.sum())
        spread = float(np.std(differences[there, column], ddof=1)) if count > 1 else float("nan")
        seen = _mean(before[there, column]), _mean(after[there, column]), _mean(differences[there, column])
        lower, upper = _bounds(means[:, column], count, alpha)
        found.append(Interval(name, count, *seen, lower, upper, floor, patients_needed(spread, -floor, alpha)))
    return tuple(found)


def _bounds(means: FloatArray, patients: int, alpha: float) -> tuple[float | None, float | None]:
    upper = bound(-means, patients, alpha)
    return bound(means, patients, alpha), None if upper is None else -upper


def _mean(values: FloatArray) -> float | None:
    return float(values.mean()) if len(values) else None


def _mean_of_means(values: FloatArray) -> float:
    """Mean over labels of the means over patients."""
    there = ~np.isnan(values)
    columns: Sequence[float] = [values[there[:, c], c].mean() for c in range(values.shape[1]) if there[:, c].any()]
    return float(np.mean(columns))
