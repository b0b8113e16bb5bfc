"""How good a model is on labelled cases, on their own grids.

`validate` is what a run can afford between steps: Dice alone. `measure` is everything, for its end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lib.core import metrics
from lib.core.values import MaskArray
from lib.inference.predictor import Predictor
from lib.inference.preprocess import class_numbers
from lib.training.data import Case
from lib.training.distributed import ALONE, Group

MARGIN_MM = 10.0
"""Around the annotated labels, where calibration is measured: far outside everything is background and easy."""
MM3_PER_ML = 1000.0

ShareDone = Callable[[float], None]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """Agreement of one label on one case.

    Attributes:
        dice: in [0, 1].
        hd95_mm: infinite when one of both masks is empty.
        nsd: at `metrics.DEFAULT_TOLERANCE_MM`, in [0, 1].
        volume_error_ml: predicted minus annotated volume.
        volume_error: the same as a share of the annotated volume; None when that is empty.
    """

    dice: float
    hd95_mm: float
    nsd: float
    volume_error_ml: float
    volume_error: float | None


@dataclass(frozen=True, slots=True)
class CaseMetrics:
    """Agreement on one case.

    Attributes:
        name: of the case.
        labels: by name; None where neither annotation nor prediction has the label, or the annotation does not speak of
            it.
        calibration_error: expected calibration error of the predicted class, in [0, 1], in the box around the annotated
            labels (as Mehrtash et al., IEEE TMI 2020, arXiv:1911.13273, measure it) with a margin of 10 mm, or in the
            whole volume without any; None when the annotation does not speak of all labels.
    """

    name: str
    labels: Mapping[str, LabelFigures | None]
    calibration_error: float | None


def validate(
    predictor: Predictor, cases: Sequence[Case], report: ShareDone = lambda _: None, group: Group = ALONE
) -> dict[str, float | None]:
    """Dice of each label on the cases' own grids: the mean over the cases that have a value, or None.

    Args:
        predictor: the model.
        cases: images with masks.
        report: called with the share of cases done.
        group: processes that share the cases; each gets the result of all.
    """
    found = group.each(lambda number: _dice(predictor, cases[number]), len(cases), report)
    return _means(predictor.schema.names, found)


def measure(
    predictor: Predictor, cases: Sequence[Case], report: ShareDone = lambda _: None, group: Group = ALONE
) -> tuple[CaseMetrics, ...]:
    """All metrics of each case, on its own grid.

    Args:
        predictor: the model.
        cases: images with masks.
        report: called with the share of cases done.
        group: processes that share the cases; each gets the result of all.
    """
    return tuple(group.each(lambda number: measure_case(predictor, cases[number]), len(cases), report))


def measure_case(predictor: Predictor, case: Case) -> CaseMetrics:
    """All metrics of one case."""
    calibration = _Calibration(case)
    predicted = predictor.predict(case.volume, on_probabilities=calibration.add).mask.array
    annotated, predicted = _compared(case, predicted)
    geometry = case.mask.geometry
    labels: dict[str, LabelFigures | None] = {}
    for label in predictor.schema:
        regions = annotated == label.id, predicted == label.id
        found = metrics.label_metrics(*regions, geometry.spacing_mm) if _speaks_of(case, label.name) else None
        errors = volume_errors(int(regions[0].sum()), int(regions[1].sum()), geometry.voxel_volume_mm3)
        labels[label.name] = None if found is None else LabelFigures(found.dice, found.hd95_mm, found.nsd, *errors)
    return CaseMetrics(case.name, labels, calibration.error)


def mean_dice_by_label(cases: Sequence[CaseMetrics], labels: Sequence[str]) -> dict[str, float | None]:
    """The mean Dice of each label over the cases that have a value, or None."""
    dice = [
        {name: None if figures is None else figures.dice for name, figures in case.labels.items()} for case in cases
    ]
    return _means(labels, dice)


def volume_errors(annotated: int, predicted: int, voxel_mm3: float) -> tuple[float, float | None]:
    """Predicted minus annotated volume in ml, and as a share of the annotated one (None when that is empty).

    Args:
        annotated: voxels.
        predicted: voxels.
        voxel_mm3: volume of a voxel.
    """
    difference = predicted - annotated
    return difference * voxel_mm3 / MM3_PER_ML, difference / annotated if annotated else None


class _Calibration:
    """Gathers confidence and hits of a case while its probabilities come, slab by slab."""

    def __init__(self, case: Case) -> None:
        self._truth = class_numbers(case.mask)
        self._box = _box_around(self._truth, case.mask.geometry.spacing_mm)
        self._histogram = np.zeros((metrics.CALIBRATION_BINS, 3))
        slices = np.ones(len(self._truth), np.bool_) if case.coverage.slices is None else case.coverage.slices
        self._slices = np.asarray(slices) & (case.coverage.labels is None)

    def add(self, slices: slice, probabilities: npt.NDArray[np.float32]) -> None:
        """Count the probabilities (n, classes, rows, columns) of some slices of the volume, in its own order."""
        numbers = np.arange(*slices.indices(len(self._truth)))
        chosen = self._slices[numbers] & (numbers >= self._box[0].start) & (numbers < self._box[0].stop)
        inside = probabilities[chosen][..., self._box[1], self._box[2]]
        hits = inside.argmax(axis=1) == self._truth[(numbers[chosen], *self._box[1:])]
        self._histogram += metrics.calibration_histogram(inside.max(axis=1), hits)

    @property
    def error(self) -> float | None:
        return metrics.expected_calibration_error(self._histogram)


def _box_around(classes: npt.NDArray[np.uint8], spacing_mm: tuple[float, float, float]) -> Box:
    """The box of all labels with the margin, or everything without labels."""
    found = ndimage.find_objects((classes > 0).astype(np.uint8))
    sides = found[0] if found else tuple(slice(0, size) for size in classes.shape)
    margins = [round(MARGIN_MM / mm) for mm in spacing_mm]
    first, rows, columns = (
        slice(max(0, side.start - margin), min(size, side.stop + margin))
        for side, margin, size in zip(sides, margins, classes.shape, strict=True)
    )
    return first, rows, columns


def _dice(predictor: Predictor, case: Case) -> dict[str, float | None]:
    """Dice of each label on one case, None where neither mask has it or the annotation does not speak of it."""
    annotated, predicted = _compared(case, predictor.predict(case.volume).mask.array)
    return {
        label.name: metrics.dice(annotated == label.id, predicted == label.id) if _speaks_of(case, label.name) else None
        for label in predictor.schema
    }


def _compared(case: Case, predicted: MaskArray) -> tuple[MaskArray, MaskArray]:
    """Annotated and predicted label ids, both background in slices that the annotation does not cover."""
    if case.coverage.slices is None:
        return case.mask.array, predicted
    there = np.array(case.coverage.slices, dtype=np.uint8)[:, None, None]
    return case.mask.array * there, predicted * there


def _speaks_of(case: Case, label: str) -> bool:
    return case.coverage.labels is None or label in case.coverage.labels


def _means(labels: Sequence[str], found: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    values = {name: [dice for case in found if (dice := case[name]) is not None] for name in labels}
    return {name: float(np.mean(dice)) if dice else None for name, dice in values.items()}
