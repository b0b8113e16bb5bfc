"""Figures of many cases in one row a label, and in one number."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from lib.core import metrics
from lib.taskfile import Task

if TYPE_CHECKING:
    from lib.training.measure import CaseMetrics


@dataclass(frozen=True, slots=True)
class LabelMeans:
    """Means of one label over the cases that have a value; None where no case has one.

    Attributes:
        cases: how many have a Dice.
        dice: in [0, 1].
        hd95_mm: over the cases where annotation and prediction both show the label.
        missed: cases where one of both does not, whose distance is infinite.
        nsd: at 1 mm, in [0, 1].
        volume_error: of the absolute error, as a share of the annotated volume.
    """

    cases: int
    dice: float | None
    hd95_mm: float | None
    missed: int
    nsd: float | None
    volume_error: float | None


def means_by_label(cases: "Sequence[CaseMetrics]", labels: Sequence[str]) -> dict[str, LabelMeans]:
    """Means of each label, in that order."""
    return {name: _means(cases, name) for name in labels}


def common_mean_dice(task: Task, dice: Mapping[str, float | None]) -> float | None:
    """The mean Dice of a model of the task: over its common labels that have a value, or None when none has."""
    return metrics.mean_dice({name: dice[name] for name in task.common_labels})


def mean_calibration_error(cases: "Sequence[CaseMetrics]") -> float | None:
    """The mean over the cases that have a value, or None."""
    return _mean(case.calibration_error for case in cases)


def _means(cases: "Sequence[CaseMetrics]", label: str) -> LabelMeans:
    found = [figures for case in cases if (figures := case.labels.get(label)) is not None]
    distances = [figures.hd95_mm for figures in found if math.isfinite(figures.hd95_mm)]
    return LabelMeans(
        cases=len(found),
        dice=_mean(figures.dice for figures in found),
        hd95_mm=_mean(distances),
        missed=len(found) - len(distances),
        nsd=_mean(figures.nsd for figures in found),
        volume_error=_mean(None if f.volume_error is None else abs(f.volume_error) for f in found),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None
