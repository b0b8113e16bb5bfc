"""Measure a model on folders of labelled images, by the metrics that a training ends with."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.metrics import DEFAULT_TOLERANCE_MM
from lib.taskfile import Task
from lib.workflows.casefigures import LabelMeans, mean_calibration_error, means_by_label
from lib.workflows.userfiles import pairs_of, read_case

if TYPE_CHECKING:
    from lib.inference.predictor import Predictor
    from lib.training.measure import CaseMetrics

AVERAGED = ("dice", "hd95_mm", "nsd", "volume_error")

Report = Callable[[float, str], None]
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model is worth on labelled images.

    Attributes:
        cases: all metrics of each case.
        learned: names of those that the model has learned from: figures of them flatter it.
    """

    cases: tuple["CaseMetrics", ...]
    learned: tuple[str, ...] = ()


def evaluate_folder(
    images: Path,
    labels: Path,
    task: Task,
    predictor: "Predictor",
    report: Report,
    learned_files: Collection[str] = (),
) -> Evaluation:
    """All metrics of each image and label file of one name.

    Args:
        images: folder of NIfTI images.
        labels: folder of NIfTI labels.
        task: what they show.
        predictor: the model.
        report: called with the share done and the case.
        learned_files: SHA-256 of the image files that the model has learned from, as far as that is known.

    Raises:
        InvalidInput: files that do not pair or cannot be read.
    """
    from lib.inference.model import file_sha256
    from lib.training.measure import measure_case

    pairs, found = pairs_of(images, labels), []
    for done, pair in enumerate(pairs):
        report(done / len(pairs), pair.name)
        found.append(measure_case(predictor, read_case(pair, task)))
    report(1.0, "done")
    known = set(learned_files)
    learned = tuple(pair.name for pair in pairs if file_sha256(pair.image) in known) if known else ()
    return Evaluation(tuple(found), learned)


def summary(task: Task, evaluation: Evaluation) -> Figures:
    """The figures as plain values that JSON can hold.

    Returns:
        {"task", "tolerance_mm" of the NSD, "cases": {name: {label: figures or None}}, "labels": {label: means}, "mean":
        means, "calibration_errors": {name: error or None}, "learned_from": names}. A label that is empty in both masks
        is None; an infinite HD95 (one mask is empty) is None, leaves the mean and is counted in "hd95_infinite". Means
        of the volume error are of its absolute value. The overall mean leaves out the task's rare labels.
    """
    cases = evaluation.cases
    means = means_by_label(cases, task.schema.names)
    common = [means[name] for name in task.common_labels]
    overall = {what: _mean([getattr(row, what) for row in common]) for what in AVERAGED}
    return {
        "task": task.name,
        "tolerance_mm": DEFAULT_TOLERANCE_MM,
        "cases": {case.name: {label: _plain(found) for label, found in case.labels.items()} for case in cases},
        "labels": {name: _row(row) for name, row in means.items()},
        "mean": {**overall, "calibration_error": mean_calibration_error(cases)},
        "calibration_errors": {case.name: case.calibration_error for case in cases},
        "learned_from": list(evaluation.learned),
    }


def _row(means: LabelMeans) -> Figures:
    averaged = {what: getattr(means, what) for what in AVERAGED}
    return {**averaged, "cases": means.cases, "hd95_infinite": means.missed}


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _plain(figures: Any) -> Figures | None:
    """Figures of a label on a case; an infinite distance becomes None."""
    if figures is None:
        return None
    values = asdict(figures).items()
    return {name: value if value is None or math.isfinite(value) else None for name, value in values}
